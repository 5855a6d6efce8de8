from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.snake.settings import SnakeSettings
from rattle.rollouts.collector import allocate_for
from rattle.runs.episodes import EpisodeTracker, episode_rows
from rattle.samples.rollout import Played


def random_buffer(ticks: int, worlds: int, agents: int, seed: int) -> Played:
    """Return a buffer whose slots end, die and come back at random."""
    rng = np.random.default_rng(seed)
    buffer = allocate_for(SnakeWorlds(SnakeSettings(num_snakes=agents), 1).spec, ticks, worlds)
    shape = buffer.action.shape
    buffer.active[:] = rng.random(shape) < 0.8
    buffer.reward[:] = rng.integers(-2, 3, shape) * buffer.active
    ends = (rng.random(shape) < 0.3) & buffer.active
    buffer.truncated[:] = ends & (rng.random(shape) < 0.3)
    buffer.terminated[:] = ends & ~buffer.truncated
    buffer.metrics["food"][:] = rng.integers(0, 50, shape) * ends
    buffer.world_episode[:] = rng.integers(0, 9, buffer.world_episode.shape)
    return buffer


class PlainTracker:
    """The same in plain Python."""

    def __init__(self, slots: int) -> None:
        self.reward = [0.0] * slots
        self.length = [0] * slots

    def follow(self, buffer: Played, ticks: int) -> list[tuple[Any, ...]]:
        finished = []
        agents = buffer.action.shape[1] // buffer.world_episode.shape[1]
        for t in range(ticks):
            for b in range(buffer.action.shape[1]):
                if buffer.active[t, b]:
                    self.reward[b] += float(buffer.reward[t, b])
                    self.length[b] += 1
                if buffer.terminated[t, b] or buffer.truncated[t, b]:
                    episode = int(buffer.world_episode[t, b // agents])
                    food = int(buffer.metrics["food"][t, b])
                    row = (b // agents, episode, b % agents, self.reward[b], self.length[b])
                    finished.append((*row, bool(buffer.terminated[t, b]), {"food": food}))
                    self.reward[b], self.length[b] = 0.0, 0
        return finished


@settings(max_examples=50)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32), st.integers(1, 4))
def test_returns_and_lengths_equal_a_plain_count(ticks: int, worlds: int, agents: int, seed: int, parts: int) -> None:
    tracker, plain = EpisodeTracker(worlds * agents, complete_episodes=False), PlainTracker(worlds * agents)
    expected_rewards: list[float] = []
    for part in range(parts):
        buffer = random_buffer(ticks, worlds, agents, seed + part)
        expected = plain.follow(buffer, ticks)
        first_id = tracker.ended
        finished = tracker.follow(buffer)
        tracker.remember([finished])
        rows = list(episode_rows(finished, agents, first_id, {"run_id": "r"}))
        names = ("world", "world_episode", "agent", "return", "length", "terminated", "metrics")
        assert [tuple(row[name] for name in names) for row in rows] == expected
        assert [row["episode_id"] for row in rows] == list(range(first_id, tracker.ended))
        expected_rewards += [row[3] for row in expected]
        restored = EpisodeTracker(worlds * agents, complete_episodes=False)
        restored.restore(tracker.state())
        tracker = restored
    last = expected_rewards[-100:]
    assert tracker.mean_return == (sum(last) / len(last) if last else None)


def test_complete_episodes_start_anew_with_every_rollout() -> None:
    buffer = random_buffer(4, 1, 1, 0)
    buffer.active[:], buffer.terminated[:], buffer.truncated[:] = True, False, False
    buffer.reward[:] = 1.0
    tracker = EpisodeTracker(1, complete_episodes=True)
    assert len(tracker.follow(buffer)) == 0
    buffer.terminated[1] = True
    assert tracker.follow(buffer).total_reward.tolist() == [2.0]


def test_means_of_complete_episodes_are_over_all_of_a_rollout() -> None:
    """Every slot ends one episode: the last hundred to end would be the longest."""
    slots = 300
    buffer = random_buffer(slots, slots, 1, 0)
    buffer.active[:], buffer.terminated[:], buffer.truncated[:] = True, False, False
    buffer.reward[:] = 1.0
    np.fill_diagonal(buffer.terminated, True)
    tracker = EpisodeTracker(slots, complete_episodes=True)
    for _ in range(2):
        tracker.remember([tracker.follow(buffer)])
        assert tracker.mean_length == tracker.mean_return == (1 + slots) / 2


def test_means_of_complete_episodes_are_over_the_last_rollouts_with_a_hundred() -> None:
    slots = 40
    buffer = random_buffer(1, slots, 1, 0)
    buffer.active[:], buffer.terminated[:], buffer.truncated[:] = True, True, False
    tracker = EpisodeTracker(slots, complete_episodes=True)
    for rollout, mean in enumerate((0.0, 0.5, 1.0, 2.0, 3.0)):
        buffer.reward[:] = rollout
        tracker.remember([tracker.follow(buffer)])
        assert tracker.mean_return == mean
        assert tracker.is_representative == (rollout >= 2)
        restored = EpisodeTracker(slots, complete_episodes=True)
        restored.restore(tracker.state())
        tracker = restored


def test_the_means_of_an_earlier_version_are_taken_as_one_rollouts() -> None:
    buffer = random_buffer(1, 40, 1, 0)
    buffer.active[:], buffer.terminated[:], buffer.truncated[:] = True, True, False
    tracker = EpisodeTracker(40, complete_episodes=True)
    tracker.remember([tracker.follow(buffer)])
    state = tracker.state()
    del state["last_rollouts"]
    restored = EpisodeTracker(40, complete_episodes=True)
    restored.restore(state)
    buffer.reward[:] = 7.0
    for _ in range(3):
        restored.remember([restored.follow(buffer)])
    assert restored.mean_return == 7.0


def test_means_are_over_the_last_hundred_episodes() -> None:
    buffer = random_buffer(150, 1, 1, 0)
    buffer.active[:], buffer.terminated[:], buffer.truncated[:] = True, True, False
    buffer.reward[:, 0] = np.arange(150)
    tracker = EpisodeTracker(1, complete_episodes=False)
    tracker.remember([tracker.follow(buffer)])
    assert tracker.mean_return == np.arange(50, 150).mean()


def test_means_of_complete_episodes_are_over_all_parts_of_an_update() -> None:
    tracker = EpisodeTracker(3, complete_episodes=True)
    parts = []
    for slot, reward in enumerate((20.0, 40.0, 3.0)):
        buffer = random_buffer(1, 1, 1, 0)
        buffer.active[:], buffer.terminated[:], buffer.truncated[:] = True, True, False
        buffer.reward[:] = reward
        parts.append(tracker.follow(buffer, slot))
    tracker.remember(parts)
    assert [part.slot.tolist() for part in parts] == [[0], [1], [2]]
    assert tracker.mean_return == 21.0


def test_an_episode_with_a_hole_is_not_counted() -> None:
    tracker = EpisodeTracker(2, complete_episodes=False)
    buffer = random_buffer(3, 2, 1, 0)
    buffer.active[:], buffer.terminated[:], buffer.truncated[:] = True, False, False
    buffer.reward[:] = 1.0
    tracker.follow(buffer)
    tracker.forget(slice(0, 1), go_on=True)
    buffer.terminated[1] = True
    for expected in ({1: 5.0}, {0: 3.0, 1: 3.0}):
        finished = tracker.follow(buffer)
        assert dict(zip(finished.slot.tolist(), finished.total_reward.tolist(), strict=True)) == expected
    tracker.forget(slice(0, 2))
    assert tracker.follow(buffer).total_reward.tolist() == [2.0, 2.0]
