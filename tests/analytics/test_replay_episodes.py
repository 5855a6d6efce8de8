"""Recorded episodes are found, chosen and loaded."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.query import arrow
from rattle.analytics.replay import json_lines, list_episodes, load_episode, table
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.steps import encode_state
from rattle.envs.snake.settings import SnakeSettings
from tests.analytics.build import record_snake, record_steps, steps_columns


@pytest.fixture
def recorded(run: RunDirectory) -> RunDirectory:
    record_steps(run, steps_columns(run, 5, policy_version=1), steps_columns(run, 3, world_episode=20, reward=2.0))
    record_steps(run, steps_columns(run, 4, world=1, world_episode=7, reward=1.5, policy_version=30))
    record_steps(run, steps_columns(run, 8, world_episode=40, policy_version=12))
    return run


def test_episodes_are_listed_by_policy(recorded: RunDirectory) -> None:
    listed = [(episode.id, episode.ticks, episode.mean_return) for episode in list_episodes(recorded)]
    assert listed == [("0-0", 5, -1.0), ("0-20", 3, 6.0), ("0-40", 8, -1.0), ("1-7", 4, 6.0)]
    assert table(list_episodes(recorded)).splitlines()[:2] == [
        "     episode      return    ticks  agents    policy",
        "         0-0       -1.00        5       1        v1",
    ]
    assert msgspec.json.decode(json_lines(list_episodes(recorded)).splitlines()[1]) == {
        "episode": "0-20",
        "world": 0,
        "world_episode": 20,
        "agents": 1,
        "ticks": 3,
        "mean_return": 6.0,
        "policy_version": 7,
    }


def test_many_episodes_in_one_file_keep_their_own_rows(run: RunDirectory) -> None:
    rng = np.random.default_rng(1)
    ticks = rng.integers(1, 6, 2000)
    order = [int(number) for number in rng.permutation(2000)]
    parts = [steps_columns(run, int(ticks[i]), world=i % 7, world_episode=i, reward=float(i)) for i in order]
    record_steps(run, *parts, *(steps_columns(run, 9, world=i % 7, world_episode=i, agent=1) for i in order[:3]))
    listed = list_episodes(run)
    assert [(episode.world, episode.world_episode) for episode in listed] == [(i % 7, i) for i in order]
    assert [episode.ticks for episode in listed] == [9, 9, 9, *(ticks[i] for i in order[3:])]
    assert [episode.agents for episode in listed] == [2, 2, 2, *[1] * 1997]
    assert [episode.mean_return for episode in listed[3:]] == [float(ticks[i] * i) for i in order[3:]]


@pytest.mark.parametrize(("which", "expected"), [("last", "1-7"), ("best", "1-7"), ("0-20", "0-20")])
def test_an_episode_is_chosen(recorded: RunDirectory, which: str, expected: str) -> None:
    assert load_episode(recorded, which).summary.id == expected


def test_all_agents_are_loaded(run: RunDirectory) -> None:
    settings = SnakeSettings(num_snakes=3, food=3)
    ticks = record_snake(run, settings, episode=2)
    episode = load_episode(run, "0-2")
    assert list(episode.agents) == [0, 1, 2]
    assert episode.summary.agents == 3
    assert len(episode.states) == episode.summary.ticks == ticks
    assert all(len(state["bodies"]) == 3 for state in episode.states)
    assert episode.env["vision_radius"] == 5
    for agent, steps in episode.agents.items():
        assert steps.tick.tolist() == list(range(len(steps.tick)))
        assert steps.terminated
        returns = episode.returns(agent)
        assert returns.shape == (ticks + 1,)
        assert returns[0] == 0
        assert returns[-1] == steps.reward.sum() == returns[len(steps.tick)]
    assert episode.summary.mean_return == np.mean([episode.returns(agent)[-1] for agent in range(3)])


def test_a_state_in_the_rows_of_all_agents_is_as_good(run: RunDirectory) -> None:
    state = [encode_state({"bodies": [[[tick, 0]], [[0, tick]]]}) for tick in range(4)]
    record_steps(run, steps_columns(run, 4, state=state), steps_columns(run, 4, agent=1, state=state))
    assert [state["bodies"][0][0][0] for state in load_episode(run).states] == [0, 1, 2, 3]


def test_what_is_not_there_is_explained(run: RunDirectory, tmp_path: Path) -> None:
    assert list_episodes(run) == []
    with pytest.raises(AnalyticsError, match="no recorded episodes yet"):
        load_episode(run)
    record_snake(run, SnakeSettings())
    with pytest.raises(
        AnalyticsError, match=r"no recorded episode '9-9' in .*: choose last, best or one of 1, such as 0-0"
    ):
        load_episode(run, "9-9")


def test_damaged_files_are_named(recorded: RunDirectory) -> None:
    whole = recorded.table("steps") / "train-000001.parquet"
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    with pytest.raises(AnalyticsError, match=r"train-000001\.parquet cannot be read"):
        list_episodes(recorded)
    whole.write_bytes(content)
    for damaged in ("", "env: 7", "env: [", "\x00", "env: 2026-13-45"):
        recorded.config.write_text(damaged)
        with pytest.raises(AnalyticsError, match=r"config\.yaml is damaged"):
            load_episode(recorded)


def test_a_state_that_is_not_json_is_named(run: RunDirectory) -> None:
    record_steps(run, steps_columns(run, 2, state="{half"))
    with pytest.raises(AnalyticsError, match=r"train-000000\.parquet is damaged: a state is not JSON"):
        load_episode(run)


def test_files_of_earlier_versions_have_whole_actions_only(recorded: RunDirectory) -> None:
    for path in recorded.table("steps").iterdir():
        pq.write_table(pq.read_table(path).drop_columns(["action_row"]), path)
    assert load_episode(recorded, "0-0").agents[0].action.tolist() == [0] * 5
    rows = arrow("SELECT action, action_row FROM steps LIMIT 1", [recorded])
    assert rows.to_pylist() == [{"action": 0, "action_row": []}]
