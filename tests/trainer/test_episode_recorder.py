"""Recorded episodes are the games that were played."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from rattle.analytics.replay import load_episode, save
from rattle.analytics.run_directory import RunDirectory
from rattle.envs.seeds import derive_seed
from rattle.envs.snake.reference import SnakeWorld
from rattle.envs.snake.settings import SnakeSettings
from rattle.runs.checkpoint import list_checkpoints, load_checkpoint
from rattle.runs.progress import Summary
from rattle.runs.run_tables import read_run_row
from rattle.trainer.train import resume
from tests.trainer.conftest import Silence, read_rows
from tests.trainer.test_exactness import recorded

TrainSmall = Callable[..., tuple[Summary, RunDirectory]]


def by_episode(directory: RunDirectory) -> dict[int, dict[int, dict[int, dict[str, Any]]]]:
    """Return recorded rows by world episode, tick and agent."""
    rows: dict[int, dict[int, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for row in recorded(directory):
        rows[row["world_episode"]][row["tick"]][row["agent"]] = row  # type: ignore[index]
    return rows


@pytest.mark.parametrize("num_snakes", [1, 3])
def test_recorded_episodes_follow_the_rules_tick_by_tick(train_small: TrainSmall, num_snakes: int) -> None:
    summary, directory = train_small(f"env.num_snakes={num_snakes}", "env.max_steps=60", "train.steps=12000")
    config = SnakeSettings(num_snakes=num_snakes, max_steps=60)
    episodes = by_episode(directory)
    assert len(episodes) >= 2
    assert all(number % 2 == 0 for number in episodes)
    for number, ticks in episodes.items():
        game = SnakeWorld(config, derive_seed(0, "worlds"), 0, number)
        for tick in range(len(ticks)):
            living = {agent for agent in range(num_snakes) if game.snakes[agent].alive}
            assert set(ticks[tick]) == living
            for agent, row in ticks[tick].items():
                np.testing.assert_array_equal(row["observation"], game.observe(agent))
                state = json.loads(row["state"])
                assert state["bodies"] == [[list(cell) for cell in snake.body] for snake in game.snakes]
                assert row["log_prob"] <= 0
                assert 0 <= row["policy_version"] < summary.updates
            result = game.step([ticks[tick].get(agent, {"action": 0})["action"] for agent in range(num_snakes)])
            for agent, row in ticks[tick].items():
                assert row["reward"] == result.rewards[agent]
                assert row["terminated"] == result.terminated[agent]
                assert row["truncated"] == result.truncated[agent]
        assert result.over


@pytest.mark.parametrize("players", [2, 4])
def test_moves_are_recorded_in_the_ticks_in_which_they_were_made(train_small: TrainSmall, players: int) -> None:
    """Rollouts of seven ticks end in the midst of games, with moves of which nobody knows yet what comes."""
    game = f"env={{id: 'pettingzoo:tests.envs.countdown', worlds: 3, players: {players}, heap: 30, leaves: [1]}}"
    _, directory = train_small(game, "algorithm.ticks=7", "record.every_episodes=1", "train.steps=600")
    episodes = by_episode(directory)
    assert len(episodes) > 5
    for ticks in episodes.values():
        assert sorted(ticks) == list(range(len(ticks)))
        for agents in ticks.values():
            [(agent, row)] = agents.items()
            np.testing.assert_array_equal(json.loads(row["state"])["observation"][agent], row["observation"])
            assert row["observation"][1] == agent
        versions = [row["policy_version"] for tick in sorted(ticks) for row in ticks[tick].values()]
        assert versions == sorted(versions)


def test_recorded_episodes_are_in_the_episodes_table_too(train_small: TrainSmall) -> None:
    _, directory = train_small("record.every_episodes=1", "train.steps=12000")
    table = {(row["world"], row["world_episode"]): row for row in read_rows(directory, "episodes")}
    for number, ticks in by_episode(directory).items():
        row = table[0, number]
        assert row["length"] == len(ticks)
        assert row["return"] == sum(agents[0]["reward"] for agents in ticks.values())


def test_nothing_is_recorded_when_not_asked_for(train_small: TrainSmall) -> None:
    _, directory = train_small("record.every_episodes=0")
    assert not list(directory.table("steps").iterdir())


def test_whole_episodes_are_recorded_once_when_rollouts_are_whole_episodes(train_small: TrainSmall) -> None:
    overrides = ["algorithm.id=reinforce", "algorithm.max_episode_ticks=40", "train.steps=12000"]
    _, directory = train_small(*overrides, "record.every_episodes=1")
    assert len(by_episode(directory)) == len(read_rows(directory, "updates"))
    for ticks in by_episode(directory).values():
        last = ticks[max(ticks)][0]
        assert sorted(ticks) == list(range(len(ticks)))
        assert last["terminated"] or last["truncated"]


def test_every_nth_rollout_of_whole_episodes_is_recorded(train_small: TrainSmall) -> None:
    overrides = ["algorithm.id=reinforce", "algorithm.max_episode_ticks=40", "train.steps=12000"]
    _, directory = train_small(*overrides, "record.every_episodes=3")
    assert len(by_episode(directory)) == -(-len(read_rows(directory, "updates")) // 3)


class Endless(gymnasium.Env[np.ndarray[Any, Any], int]):
    """Never ends an episode."""

    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, size: int = 1) -> None:
        self.observation_space = gymnasium.spaces.Box(0.0, 1e9, (size,), np.float32)
        self.size = size

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.ticks = 0
        return np.zeros(self.size, np.float32), {}

    def step(self, action: int) -> Any:
        self.ticks += 1
        return np.full(self.size, self.ticks, np.float32), 1.0, False, False, {}


def test_the_recording_of_an_episode_with_large_observations_is_cut(
    train_small: TrainSmall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rattle.runs.episode_recorder.MOST_BYTES", 200_000)
    monkeypatch.setitem(gymnasium.registry, "Endless-v0", gymnasium.envs.registration.EnvSpec("Endless-v0", Endless))
    own = "env={id: 'gym:Endless-v0', worlds: 2, size: 500}"
    _, directory = train_small(own, "algorithm.ticks=16", "train.steps=1000")
    ticks = len(list(recorded(directory)))
    least, most = 500 * 4, 500 * (4 + len("1000.0,"))  # bytes of a tick: the observation, and again as text
    assert 200_000 / most * 0.8 < ticks < 200_000 / least
    (cut,) = (row for row in read_rows(directory, "logs") if row["event"] == "recording_cut")
    assert json.loads(cut["fields"]) == {"world_episode": 0, "ticks": ticks}
    newest = load_checkpoint(list_checkpoints(directory)[-1], read_run_row(directory)["run_id"])
    assert "recorder/observation" not in newest.tensors


def test_the_recording_of_an_endless_episode_is_cut(
    train_small: TrainSmall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rattle.runs.episode_recorder.MOST_TICKS", 100)
    monkeypatch.setitem(gymnasium.registry, "Endless-v0", gymnasium.envs.registration.EnvSpec("Endless-v0", Endless))
    _, directory = train_small("env={id: 'gym:Endless-v0', worlds: 2}", "algorithm.ticks=16", "train.steps=1000")
    rows = sorted(recorded(directory), key=lambda row: row["tick"])
    assert [row["tick"] for row in rows] == list(range(100))
    assert not any(row["terminated"] or row["truncated"] for row in rows)
    (cut,) = (row for row in read_rows(directory, "logs") if row["event"] == "recording_cut")
    assert json.loads(cut["fields"])["world_episode"] == 0
    newest = load_checkpoint(list_checkpoints(directory)[-1], read_run_row(directory)["run_id"])
    assert "recorder/observation" not in newest.tensors
    assert load_episode(directory).agents[0].fate == "recording cut"
    replay = tmp_path / "replay.gif"
    save(load_episode(directory), replay)
    assert replay.stat().st_size > 1000
    again = resume(str(directory.path), 2000, None, Silence())
    assert again.status == "finished"
    assert len(list(recorded(directory))) == 100
