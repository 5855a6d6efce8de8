"""What a replay shows: boards under fog for snakes, strips for everything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.replay import Episode, load_episode, palette
from rattle.analytics.replay.chart import ChartView
from rattle.analytics.replay.snake import DEFAULTS, SnakeView
from rattle.analytics.replay.views import view_of
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.steps import encode_state
from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.snake.geometry import to_world, visible_offsets
from rattle.envs.snake.settings import MAX_SNAKES, SnakeSettings
from tests.analytics.build import make_run, record_snake, record_steps, steps_columns


def recorded_board(run: RunDirectory, *states: dict[str, Any], **known: Any) -> Episode:
    record_steps(run, steps_columns(run, len(states), state=[encode_state(state) for state in states], **known))
    return load_episode(run)


STATE = {"bodies": [[[1, 1], [0, 1], [14, 1]], [[9, 9], [9, 10]]], "headings": [1, 0], "food": [[1, 13], [7, 7]]}


def test_the_fog_is_what_the_snake_observes(run: RunDirectory) -> None:
    settings = SnakeSettings(width=9, height=7, vision_radius=4)
    board = make_run(run.path, "board", env={"id": "snake", **settings.model_dump()})
    record_snake(board, settings)
    view = SnakeView(load_episode(board), 0)
    for frame in range(view.frames - 1):
        state = view.state(frame)
        (x, y), heading = state.bodies[0][0], state.headings[0]
        seen = {to_world(heading, *offset) for offset in visible_offsets(4)}
        expected = {((x + dx) % 9, (y + dy) % 7) for dx, dy in seen} | {(x, y)}
        assert {(int(x), int(y)) for y, x in np.argwhere(view.visible(frame))} == expected


def test_text_can_be_read_without_colours(run: RunDirectory) -> None:
    lines = SnakeView(recorded_board(run, STATE, STATE), 0).text(0).plain.splitlines()
    assert lines[0] == f"{run.path.name}  episode 0-0  policy v7"
    assert lines[1].split() == ["tick", "0", "food", "0", "return", "0.00"]
    board = lines[2:]
    assert [len(line) for line in board] == [30] * 15
    assert board[1] == "0 > . . . . . " + "  " * 4 + ". . . 0 "
    assert board[13][2] == "*"
    assert board[7].strip() == "*"
    assert board[9][18] == "^"
    assert board[10][18] == "1"


def test_the_status_follows_food_return_and_fate(run: RunDirectory) -> None:
    grown = {**STATE, "bodies": [[[2, 1], *STATE["bodies"][0]], []]}
    view = SnakeView(recorded_board(run, STATE, grown, reward=[1.0, -1.0]), 0)
    status = [[part.strip() for part in view.status(frame)] for frame in range(view.frames)]
    assert status == [
        ["tick 0", "food 0", "return 0.00"],
        ["tick 1", "food 1", "return 1.00"],
        ["tick 2", "food 1", "return 0.00", "died"],
    ]
    assert view.is_death(2)
    truncated = SnakeView(recorded_board(make_run(run.path, "other"), STATE, terminated=False, truncated=True), 0)
    assert truncated.status(1)[-1] == "truncated"
    assert not truncated.is_death(1)


def test_a_snake_that_died_early_watches_in_the_dark(run: RunDirectory) -> None:
    settings = SnakeSettings(num_snakes=4, food=4)
    record_snake(run, settings)
    episode = load_episode(run)
    first = min(episode.agents, key=lambda agent: len(episode.agents[agent].tick))
    view = SnakeView(episode, first)
    assert view.frames > len(episode.agents[first].tick) + 1
    assert not view.visible(view.frames - 1).any()
    assert view.status(view.frames - 1)[-1] == "died"
    assert view.pixels(view.frames - 1).shape == view.pixels(0).shape


def test_pixels_are_bright_where_the_snake_sees(run: RunDirectory) -> None:
    view = SnakeView(recorded_board(run, STATE), 0)
    pixels = view.pixels(0)
    assert pixels.dtype == np.uint8
    assert pixels.shape[0] % 2 == pixels.shape[1] % 2 == 0  # as video encoders want it
    counts = np.bincount(pixels.ravel(), minlength=len(palette.PALETTE))
    for index in (palette.LIT, palette.FOG, palette.FOOD, palette.FOOD_DIM, palette.EYE):
        assert counts[index] > 0
    own_head, own_body = (palette.snake_colour(0, head=head, lit=True) for head in (True, False))
    assert counts[own_head] > 0
    assert counts[own_body] > counts[own_head]
    assert counts[palette.snake_colour(1, head=False, lit=False)] > 0
    assert counts[palette.snake_colour(1, head=False, lit=True)] == 0
    assert counts[palette.DEAD] == 0
    assert (view.pixels(1) == palette.DEAD).any()


@pytest.mark.parametrize(("width", "height"), [(4, 4), (128, 4), (5, 128)])
def test_boards_of_any_size_are_drawn(run: RunDirectory, width: int, height: int) -> None:
    settings = SnakeSettings(width=width, height=height, vision_radius=32, max_steps=9)
    board = make_run(run.path, "board", env={"id": "snake", **settings.model_dump()})
    record_snake(board, settings)
    view = SnakeView(load_episode(board), 0)
    assert view.pixels(view.frames // 2).size < 400_000
    assert view.size[0] >= max(2 * width, len(view.title))
    assert view.size[1] == height + 2


def test_defaults_and_colours_agree_with_the_environment() -> None:
    settings = SnakeSettings().model_dump()
    assert {name: settings[name] for name in DEFAULTS} == dict(DEFAULTS)
    assert palette.MAX_SNAKES == MAX_SNAKES
    assert len(palette.PALETTE) == palette.snake_colour(MAX_SNAKES - 1, head=True, lit=True) + 1


def test_the_compiled_worlds_record_what_a_replay_reads(run: RunDirectory) -> None:
    worlds = SnakeWorlds(SnakeSettings(num_snakes=2, food=2))
    view = view_of(recorded_board(run, worlds.snapshot(0)), 0)
    assert isinstance(view, SnakeView)
    assert view.text(0).plain.count("*") == 2


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({**STATE, "food": [[15, 0]]}, "was not played on the 15 x 15 board"),
        ({**STATE, "bodies": [], "headings": []}, "was not played on the 15 x 15 board"),
        ({"bodies": [[[1]]], "headings": [1], "food": []}, "is damaged: a state has"),
        ({"bodies": STATE["bodies"]}, "is damaged: a state has .*headings"),
    ],
)
def test_states_that_do_not_fit_are_explained(run: RunDirectory, state: dict[str, Any], message: str) -> None:
    episode = recorded_board(run, state)
    with pytest.raises(AnalyticsError, match=message):
        view_of(episode, 0)


def test_an_unknown_agent_is_explained(run: RunDirectory) -> None:
    with pytest.raises(AnalyticsError, match=r"no agent 3 in episode 0-0: choose from 0$"):
        view_of(recorded_board(run, STATE), 3)


def cart_pole(run: RunDirectory, ticks: int, size: int = 4) -> ChartView:
    observation = np.sin(np.arange(ticks)[:, None] / 9 + np.arange(size)).astype(np.float32)
    states = [{"observation": row.tolist()} for row in observation]
    action = np.arange(ticks) % 2
    view = view_of(recorded_board(run, *states, observation=observation, action=action, reward=1.0), 0)
    assert isinstance(view, ChartView)
    return view


def test_other_environments_are_shown_as_strips(run: RunDirectory) -> None:
    view = cart_pole(run, 90)
    assert view.frames == 91
    lines = view.text(30).plain.splitlines()
    assert lines[1].split() == ["tick", "30", "return", "30.00"]
    names = ["observation 0", "observation 1", "observation 2", "observation 3", "action", "reward"]
    assert [line[:13].strip() for line in lines[2:]] == names
    assert len({len(line) for line in lines[2:]}) == 1
    assert all(len(line) <= view.size[0] for line in lines)
    assert float(lines[2].split()[-1]) == pytest.approx(np.sin(30 / 9), abs=1e-3)
    assert lines[2].count(" ") > view.text(90).plain.splitlines()[2].count(" ")
    assert view.text(90).plain.splitlines()[1].endswith("terminated")
    bright = [int((view.pixels(frame) == palette.LINE).sum()) for frame in (1, 40, 90)]
    assert bright == sorted(bright)
    assert bright[0] < bright[2]


def test_each_number_of_an_action_has_a_strip(run: RunDirectory) -> None:
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    states = [{"observation": [0.0]}] * 10
    observation = np.zeros((10, 1), np.float32)
    episode = recorded_board(run, *states, observation=observation, action=None, action_row=rows, reward=1.0)
    lines = view_of(episode, 0).text(3).plain.splitlines()
    assert [line[:13].strip() for line in lines[2:]] == ["observation 0", "action 0", "action 1", "reward"]
    assert [line.split()[-1] for line in lines[3:5]] == ["6.000", "7.000"]


def test_many_observations_are_cut_and_one_tick_is_enough(run: RunDirectory) -> None:
    view = cart_pole(run, 1, size=60)
    assert "(52 more observed)" in view.title
    assert len(view.text(0).plain.splitlines()) == view.size[1] == 12
    assert view.pixels(0).shape == view.pixels(1).shape
