"""One world that waits for its resets plays the episodes of the batch, none skipped."""

from __future__ import annotations

import numpy as np
import pytest

from rattle.envs.errors import EnvError
from rattle.envs.snake.one_world import OneWorld, fresh_seed
from rattle.envs.snake.settings import SnakeSettings

FORWARD = np.zeros(1, np.int64)


def test_episodes_follow_each_other() -> None:
    world = OneWorld(SnakeSettings(max_steps=2), world=3)
    assert world.reset(5) == 5
    assert world.worlds.first_world == 3
    played = []
    for _ in range(3):
        played.append(int(world.worlds.episode[0]))
        world.step(FORWARD)
        assert not world.over
        world.step(FORWARD)
        assert world.over
        np.testing.assert_array_equal(world.observation(), world.worlds.final_observation)
        with pytest.raises(EnvError, match="call reset"):
            world.step(FORWARD)
        assert world.reset(None) is None
        np.testing.assert_array_equal(world.observation(), world.worlds.observation)
    assert played == [0, 1, 2]


def test_giving_an_episode_up_begins_the_next() -> None:
    world = OneWorld(SnakeSettings())
    world.reset(0)
    world.step(FORWARD)
    world.reset(None)
    assert int(world.worlds.episode[0]) == 1


def test_the_first_reset_needs_no_seed() -> None:
    world = OneWorld(SnakeSettings())
    assert world.reset(None) == world.worlds.seed
    assert world.reset(None) is None
    assert len({fresh_seed() for _ in range(20)}) == 20


def test_watched_worlds_show_the_end() -> None:
    world = OneWorld(SnakeSettings(max_steps=1), watched=True)
    world.reset(0)
    start = world.snapshot()
    world.step(FORWARD)
    assert world.snapshot() == start != world.worlds.snapshot(0)
    world.reset(None)
    assert world.snapshot() == world.worlds.snapshot(0)
