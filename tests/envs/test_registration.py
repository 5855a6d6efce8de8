"""Gymnasium finds the snake, and finding it costs next to nothing."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import pytest

import rattle.envs  # noqa: F401 - registers the ids
from rattle.envs.errors import EnvError
from rattle.envs.registration import SNAKE_ID, register
from rattle.envs.snake.gymnasium_env import SnakeEnv, SnakeVectorEnv

ONLY_GYMNASIUM = """
import sys
import gymnasium
envs = gymnasium.make_vec("rattle.envs:rattle/Snake-v0", num_envs=4)
print(type(envs).__name__)
"""

ONLY_REGISTERED = """
import sys
import rattle.envs, gymnasium
assert "rattle/Snake-v0" in gymnasium.registry
print(sorted({"numba", "torch", "pydantic", "pettingzoo"} & set(sys.modules)))
"""


def output_of(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def test_make_gives_one_snake() -> None:
    env = gymnasium.make(SNAKE_ID, width=20, height=12)
    assert isinstance(env.unwrapped, SnakeEnv)
    assert (env.unwrapped.settings.width, env.unwrapped.settings.height) == (20, 12)


def test_make_vec_gives_the_batch_without_being_asked() -> None:
    envs = gymnasium.make_vec(SNAKE_ID, num_envs=1024, vision_radius=2)
    assert isinstance(envs, SnakeVectorEnv)
    assert envs.num_envs == envs.worlds.num_worlds == 1024
    assert envs.observation_space.shape == (1024, 12)


def test_registering_again_changes_nothing() -> None:
    spec = gymnasium.spec(SNAKE_ID)
    register()
    assert gymnasium.spec(SNAKE_ID) is spec


def test_only_gymnasium_need_be_imported() -> None:
    assert output_of(ONLY_GYMNASIUM) == "SnakeVectorEnv"


def test_registering_imports_nothing_heavy() -> None:
    assert output_of(ONLY_REGISTERED) == "[]"


def test_a_wrong_setting_is_named_through_gymnasium() -> None:
    with pytest.raises(EnvError, match="unknown key 'widht', did you mean 'width'"):
        gymnasium.make_vec(SNAKE_ID, num_envs=2, widht=20)
