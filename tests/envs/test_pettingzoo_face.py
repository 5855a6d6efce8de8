"""Snake as a parallel environment passes PettingZoo's own tests and plays the batch's games."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from pettingzoo.utils import parallel_to_aec

from rattle.envs.errors import EnvError
from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.snake.pettingzoo_env import parallel_env
from rattle.envs.snake.settings import SnakeSettings

with warnings.catch_warnings():  # where pygame is installed it imports games of its own in a way of old
    warnings.simplefilter("ignore", DeprecationWarning)
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test


@pytest.mark.parametrize("num_snakes", [1, 2, 8])
def test_pettingzoos_tests_pass(num_snakes: int) -> None:
    settings = {"num_snakes": num_snakes, "food": num_snakes}
    parallel_api_test(parallel_env(**settings), num_cycles=200)
    parallel_seed_test(lambda: parallel_env(**settings), num_cycles=200)


# A dead snake sees nothing: all of its cells are zero.
@pytest.mark.filterwarnings("ignore:Observation numpy array is all zeros:UserWarning")
def test_pettingzoos_tests_pass_in_turns() -> None:
    api_test(parallel_to_aec(parallel_env(num_snakes=3)), num_cycles=200)
    seed_test(lambda: parallel_to_aec(parallel_env(num_snakes=3)), num_cycles=200)


@pytest.mark.parametrize("ends_when", ["all", "any"])
def test_plays_the_episodes_of_the_batch(ends_when: str) -> None:
    settings: dict[str, Any] = {"num_snakes": 3, "width": 8, "height": 8, "ends_when": ends_when, "max_steps": 40}
    env = parallel_env(world=2, **settings)
    worlds = SnakeWorlds(SnakeSettings(**settings), 1, seed=6, first_world=2)
    seen, _ = env.reset(seed=6)
    died_alone = 0
    for action in np.random.default_rng(0).choice(3, size=(300, 3), p=[0.6, 0.2, 0.2]):
        living = [agent for agent, active in zip(env.possible_agents, worlds.active, strict=True) if active]
        assert env.agents == living == list(seen)
        number = {agent: int(agent.removeprefix("snake_")) for agent in living}
        np.testing.assert_array_equal([seen[a] for a in living], worlds.observation[list(number.values())])
        episode = worlds.episode[0].item()
        worlds.step(action)
        observations, rewards, terminated, truncated, infos = env.step({a: action[i] for a, i in number.items()})
        last = worlds.final_observation if worlds.episode[0] != episode else worlds.observation
        for agent, i in number.items():
            np.testing.assert_array_equal(observations[agent], last[i])
            assert (rewards[agent], terminated[agent], truncated[agent]) == (
                worlds.reward[i],
                worlds.terminated[i],
                worlds.truncated[i],
            )
            ended = terminated[agent] or truncated[agent]
            assert infos[agent] == ({"food": worlds.final_metrics["food"][i]} if ended else {})
        seen = {agent: observations[agent] for agent in env.agents}
        if not env.agents:
            seen, _ = env.reset()
        elif len(env.agents) < len(living):
            died_alone += 1
    assert worlds.episode[0] > 5
    assert (died_alone > 0) == (ends_when == "all")


def test_a_missing_action_is_named() -> None:
    env = parallel_env(num_snakes=2)
    env.reset(seed=0)
    with pytest.raises(EnvError, match="no action for snake_1"):
        env.step({"snake_0": np.int64(0)})


def test_no_step_without_an_episode() -> None:
    with pytest.raises(EnvError, match="call reset"):
        parallel_env().step({})


def test_renders() -> None:
    env = parallel_env(num_snakes=2, render_mode="ansi")
    env.reset(seed=0)
    assert len(env.render().splitlines()) == 15


WITHOUT_PETTINGZOO = """
import sys
sys.modules["pettingzoo"] = None
import gymnasium, rattle.envs
gymnasium.make_vec("rattle/Snake-v0", num_envs=2, num_snakes=2).reset()
"""


def test_everything_else_works_without_pettingzoo() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_PETTINGZOO], check=True)
