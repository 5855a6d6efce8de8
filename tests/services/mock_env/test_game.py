"""Scripts, seats and games, with a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.envs.snake.geometry import visible_offsets
from rattle.services.mock_env.game import DEAD_REMEMBERED, LEAVE_SECONDS, ScriptedGame, ScriptedLife
from rattle.wire.problems import RequestError


def code(call: Any, *arguments: Any) -> str:
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    return caught.value.code


def lines(game: ScriptedGame, life: ScriptedLife) -> list[Any]:
    return [game.line(life, tick) for tick in range(life.tick + 1)]


def test_a_line_comes_with_each_move_or_after_the_delay() -> None:
    game = ScriptedGame(snakes=2, length=4, delay=1.0)
    life = game.join("anna", 100.0)
    assert not game.move("anna", 100.25)
    game.catch_up(life, 101.0)
    assert life.moments == [100.0, 100.25]
    game.catch_up(life, 102.5)
    assert life.moments == [100.0, 100.25, 101.25, 102.25]
    assert game.line(life, 2).datetime == "1970-01-01T00:01:41.250000+00:00"
    assert game.move("anna", 102.5)
    assert life.over
    assert game.move("anna", 103.0), "a dead snake's move is told that it is over"
    assert len(life.moments) == 5


@given(st.lists(st.tuples(st.sampled_from(["anna", "ben", "wait"]), st.floats(0, 2)), max_size=30))
def test_snakes_do_not_disturb_each_other(steps: list[tuple[str, float]]) -> None:
    """Anna's lines are the same whether Ben plays too or not."""
    together, alone = ScriptedGame(2, 8, 1.0), ScriptedGame(2, 8, 1.0)
    now = 1000.0
    anna, same = together.join("anna", now), alone.join("anna", now)
    together.join("ben", now)
    for who, seconds in steps:
        now += seconds
        if who != "wait":
            together.move(who, now)
        if who == "anna":
            alone.move(who, now)
        together.catch_up(anna, now)
        alone.catch_up(same, now)
        assert lines(together, anna) == lines(alone, same)


def test_the_server_is_full_until_a_script_ends() -> None:
    game = ScriptedGame(snakes=1, length=2, delay=1.0)
    game.join("anna", 0.0)
    assert code(game.join, "ben", 1.0) == "full"
    game.join("anna", 1.0)
    game.join("ben", 2.0)
    assert code(game.reset_snake, "anna", 2.5) == "full"


def test_a_dead_snake_joins_again_with_a_new_script() -> None:
    game = ScriptedGame(snakes=1, length=1, delay=1.0)
    first = game.join("anna", 0.0)
    second = game.join("anna", 1.5)
    assert first is not second
    assert first.over
    assert [state.tick for state in lines(game, second)] == [0]


def test_a_reset_ends_every_script_with_its_last_line() -> None:
    game = ScriptedGame(snakes=2, length=10, delay=1.0)
    anna, ben = game.join("anna", 0.0), game.join("ben", 0.0)
    game.move("anna", 0.5)
    assert game.reset(7, 0.75) == 7
    assert [(state.tick, state.reward, state.game_over) for state in lines(game, anna)] == [
        (0, 0.0, False),
        (1, 0.0, False),
        (2, -1.0, True),
    ]
    assert [state.game_over for state in lines(game, ben)] == [False, True]
    assert game.reset(None, 1.0) == 7
    assert game.state(1.0)["episode"] == 2


def test_a_snake_that_is_reset_starts_over() -> None:
    game = ScriptedGame(snakes=1, length=10, delay=1.0)
    old = game.join("anna", 0.0)
    game.reset_snake("anna", 0.5)
    new = game.join("anna", 0.6)
    assert (old.over, old.tick, new.over, new.tick) == (True, 1, False, 0)
    assert code(game.reset_snake, "ben", 1.0) == code(game.move, "ben", 1.0) == "unknown_snake"


def test_a_snake_that_nobody_reads_leaves() -> None:
    game = ScriptedGame(snakes=1, length=10, delay=3600.0)
    life = game.join("anna", 0.0)
    game.join("anna", 0.0)
    game.leave(life, 1.0)
    assert game.summary(1.0 + 2 * LEAVE_SECONDS)["agents"] == 1
    game.leave(life, 20.0)
    assert game.summary(20.0 + LEAVE_SECONDS / 2)["agents"] == 1
    assert game.summary(20.0 + LEAVE_SECONDS)["agents"] == 0


def test_games_follow_each_other() -> None:
    game = ScriptedGame(snakes=2, length=1, delay=1.0)
    assert not game.summary(0.0)["game_over"]
    game.join("anna", 0.0)
    state = game.state(1.0)
    assert state["global_game_over"]
    assert state["status"]["anna"]["game_over"]
    assert state["visions"] == {}
    game.join("ben", 2.0)
    state = game.state(2.0)
    assert (state["episode"], state["global_game_over"], list(state["status"])) == (1, False, ["ben"])


def test_a_stop_ends_everything() -> None:
    game = ScriptedGame(snakes=2, length=10, delay=1.0)
    life = game.join("anna", 0.0)
    game.stop(0.5)
    assert lines(game, life)[-1].game_over
    assert (
        code(game.join, "anna", 1.0) == code(game.move, "anna", 1.0) == code(game.reset, None, 1.0) == "shutting_down"
    )


def test_the_dead_are_forgotten_at_last() -> None:
    game = ScriptedGame(snakes=1, length=1, delay=1.0)
    for number in range(2 * DEAD_REMEMBERED):
        game.join(f"snake-{number}", 2.0 * number)
    assert len(game.lives) <= DEAD_REMEMBERED + 1


@pytest.mark.parametrize("ticks", [0, 1, 3, 4, 7, 40, 43])
def test_visions_are_what_the_grid_shows(ticks: int) -> None:
    game = ScriptedGame(snakes=3, length=50, delay=1.0)
    for name in ("anna", "ben", "carla"):
        game.join(name, 0.0)
    for _ in range(ticks):
        game.move("ben", 0.5)
    state = game.state(0.5)
    for name, vision in state["visions"].items():
        x, y = state["status"][name]["head"]
        shown = {"5,5": "HEAD"}
        for dx, dy in visible_offsets(5):
            cell = state["grid"].get(f"{(x + dx) % state['width']},{(y + dy) % state['height']}", [{"type": "EMPTY"}])
            shown[f"{5 + dx},{5 + dy}"] = cell[0]["type"]
        assert vision == shown
        bodies = [key for key, cell in state["grid"].items() if cell[0]["snake_id"] == name]
        assert len(bodies) == state["status"][name]["length"]
