"""Gymnasium ids are found, with their module where they need one, or the error says what to do."""

from __future__ import annotations

import sys
from contextlib import closing

import gymnasium
import numpy as np
import pytest

from rattle.envs.errors import EnvError
from rattle.envs.gymnasium_ids import find_spec
from rattle.envs.gymnasium_worlds import GymnasiumWorlds
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]


def test_finds_what_is_registered() -> None:
    assert find_spec("CartPole-v1") is gymnasium.spec("CartPole-v1")
    assert find_spec("rattle.envs:rattle/Snake-v0") is gymnasium.spec("rattle/Snake-v0")


@pytest.mark.parametrize(
    ("gymnasium_id", "message"),
    [
        ("CartPol-v1", "no environment 'CartPol-v1', did you mean 'CartPole-v1'"),
        ("CartPole", "did you mean 'CartPole-v1'"),
        ("Qbert/Zzz-v0", "no environment .*pprint_registry.* need their module: 'gym:MODULE:Qbert/Zzz-v0'"),
        ("ALE/Zzz-v5", "no environment .* need their module: 'gym:ale_py:ALE/Zzz-v5'"),
        ("rattle.envs:rattle/Snail-v0", "no environment 'rattle/Snail-v0', did you mean 'rattle/Snake-v0'"),
        ("no_such_module:Thing-v0", "cannot import 'no_such_module', which should register 'Thing-v0'"),
        (".relative:Thing-v0", "cannot import '.relative'"),
    ],
)
def test_what_is_missing_is_said_in_one_line(gymnasium_id: str, message: str) -> None:
    with pytest.raises(EnvError, match=message) as caught:
        find_spec(gymnasium_id)
    assert "\n" not in str(caught.value)


MAZE = """
import json, gymnasium, numpy as np

class Maze(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        import walls_of_mazes
        return np.full(1, walls_of_mazes.FIRST), {}

    def step(self, action):
        import ends_of_mazes
        return np.zeros(1), 0.0, ends_of_mazes.NOW, False, {}

gymnasium.register("HereMaze-v0", Maze)
"""


def test_modules_in_the_current_folder_are_found_after_all_others(user_module: UserModule) -> None:
    user_module("json", "raise AssertionError('the standard library comes first')")
    user_module("mazes_here", MAZE)
    user_module("walls_of_mazes", "FIRST = 0.5")
    user_module("ends_of_mazes", "NOW = True")
    before = list(sys.path)
    with pytest.raises(EnvError, match="is not imported because a file says so"):
        find_spec("mazes_here:HereMaze-v0", allow_imports=False)
    assert sys.path == before
    try:
        assert find_spec("mazes_here:HereMaze-v0").id == "HereMaze-v0"
        with closing(GymnasiumWorlds("mazes_here:HereMaze-v0")) as worlds:  # which imports more when it plays
            assert worlds.observation.tolist() == [[0.5]]
            worlds.step(np.zeros(1, np.int64))
            assert worlds.terminated.tolist() == [True]
    finally:
        gymnasium.registry.pop("HereMaze-v0", None)
    assert find_spec("mazes_here:CartPole-v1", allow_imports=False).id == "CartPole-v1"
