"""Environments are played a little, and what they are, and what is wrong with them, is said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rattle.errors import RattleError
from rattle.runs.inspection import Inspection, inspect
from rattle.settings.sources import load_settings
from tests.trainer.conftest import last_json, rattle
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

CARTPOLE, PARTY = "gym:CartPole-v1", "pettingzoo:tests.envs.parallel_party"

#: Environments that are odd in one way each.
ODD = """
    import random

    import gymnasium
    import numpy as np
    from gymnasium.spaces import Box, Dict, Discrete

    class Endless(gymnasium.Env):
        observation_space, action_space = Box(-1, 1, (2,)), Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.ticks = 0
            return np.zeros(2, np.float32), {}

        def step(self, action):
            self.ticks += 1
            return np.zeros(2, np.float32), 0.0, False, False, {}

    class Rich(Endless):
        def step(self, action):
            seen, _, *rest = super().step(action)
            return seen, 2e6 * float(action), *rest

    class Moody(Endless):
        def step(self, action):
            super().step(action)
            return np.full(2, random.random(), np.float32), 1.0, self.ticks >= 5, False, {}

    class Broken(Endless):
        def step(self, action):
            if self.ticks == 50:
                raise ArithmeticError("drained")
            return super().step(action)

    class Masked(Endless):
        observation_space = Dict({"seen": Box(0, 1, (2,)), "action_mask": Box(0, 1, (5,), np.int8)})
        action_space = Discrete(5)

        def _see(self):
            self.mask = np.zeros(5, np.int8)
            self.mask[self.ticks % 5] = 1
            return {"seen": np.zeros(2, np.float32), "action_mask": self.mask}

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self._see(), {}

        def step(self, action):
            allowed = bool(self.mask[action])
            super().step(action)
            return self._see(), float(allowed), self.ticks >= 10, False, {}
"""


def look(environment: str, *overrides: str, seconds: float = 0.01) -> Inspection:
    overrides = ("env.worlds=3", *overrides)
    return inspect(load_settings(None, overrides, {}, flags={"env.id": environment}), seconds)


def noted(found: Inspection) -> str:
    return "\n".join(found.notes)


def test_an_environment_is_described_with_what_would_learn_it() -> None:
    found = look(CARTPOLE, "env.max_episode_steps=9", seconds=0.2)
    said, rows = found.content(), dict(found.rows())
    assert said["environment"] == CARTPOLE
    assert said["settings"] == {"max_episode_steps": 9}
    assert said["observation_space"] == {"kind": "floats", "size": 4}
    assert (said["inputs"], said["outputs"], said["agents_per_world"]) == (4, 2, 1)
    assert said["reward"] == {"min": 1.0, "mean": 1.0, "max": 1.0}
    assert said["length"]["max"] == said["return"]["max"] == 9
    assert 0 < said["terminated"] < said["episodes"]
    assert said["steps"] % 3 == 0
    assert said["steps_per_second"] > 0
    assert (said["repeats"], said["algorithm"], said["failed"]) == (True, "ppo", False)
    assert said["chosen"]["algorithm.scale_observations"] is True
    assert "env.worlds" not in said["chosen"]
    assert "every reward was 1" in noted(found)
    assert rows["network"] == 'mlp, hidden_sizes=[64, 64], activation="tanh"'
    assert json.loads(json.dumps(said)) == said


def test_all_kinds_of_environments_are_described(user_module: UserModule) -> None:
    snake = look("snake", "env.num_snakes=2", seconds=0.5).content()
    assert (snake["agents_per_world"], snake["metrics"], snake["algorithm"]) == (2, ["food"], "a2c")
    assert snake["reward"]["min"] == -1
    party = look(PARTY).content()
    assert (party["agents_per_world"], party["failed"]) == (3, False)
    user_module("my_world", (Path(__file__).parents[2] / "examples" / "extend" / "my_world.py").read_text())
    assert look("my_world:Pond").content()["settings"]["ticks"] == 20


@pytest.mark.parametrize(
    ("environment", "note", "failed"),
    [
        ("odd:Endless", "no episode has ended in .* ticks: .*TimeLimit", False),
        ("odd:Endless", "every reward was 0: chance alone finds no other", False),
        ("odd:Rich", r"a reward of 2e\+06 would end a run: raise train.max_reward", False),
        ("odd:Moody", "'odd:Moody' does not repeat itself when an episode is played again", False),
        ("odd:Broken", "after 150 steps of random actions: .*world 0: step raised ArithmeticError: drained", True),
    ],
)
def test_what_is_wrong_is_noted(user_module: UserModule, environment: str, note: str, failed: bool) -> None:
    user_module("odd", ODD)
    found = look(environment, seconds=0.3)
    assert re.search(note, noted(found)), noted(found)
    assert found.failed == failed
    assert found.repeats == ("Moody" not in environment)


def test_few_ticks_say_little() -> None:
    found = look("gym:Pendulum-v1", seconds=1e-6)
    assert "look for longer with --seconds" in noted(found)
    assert dict(found.rows())["does"] == "finite numbers of shape (1,), from -2 to 2 (box, 2 outputs of a network)"


def test_random_actions_are_allowed_ones(user_module: UserModule) -> None:
    user_module("odd", ODD)
    found = look("odd:Masked", seconds=0.2).content()
    assert found["reward"] == {"min": 1.0, "mean": 1.0, "max": 1.0}


def test_wrappers_help(user_module: UserModule) -> None:
    user_module("odd", ODD)
    short = "env.wrappers=[{use: TimeLimit, max_episode_steps: 4}]"
    found = look("odd:Endless", short, seconds=0.2)
    assert found.play.length.most == 4
    assert "no episode" not in noted(found)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ("gym:CartPol-v1", "no environment 'CartPol-v1', did you mean 'CartPole-v1'"),
        ("snek", "unknown environment 'snek', did you mean 'snake'"),
        ("nowhere:Thing", "cannot import 'nowhere'"),
    ],
)
def test_what_is_not_there_gets_one_line(environment: str, said: str) -> None:
    with pytest.raises(RattleError, match=said) as caught:
        look(environment)
    assert "\n" not in str(caught.value)


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    shown = rattle("inspect", CARTPOLE, "--seconds", "0.1", "--set", "env.worlds=2", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    names = [line[:16].rstrip() for line in shown.stdout.splitlines()]
    assert names[:4] == ["environment", "observes", "does", "agents"]
    assert "2 worlds side by side" in shown.stdout
    said: Any = last_json(rattle("inspect", "snake", "--seconds", "0.1", "--json", cwd=tmp_path).stdout)
    assert said["environment"] == "snake"
    for arguments in (
        ("gym:Nothing-v0",),
        (CARTPOLE, "--set", "env.wrappers=[Nothing]"),
        ("snake", "--set", "env.x=1"),
    ):
        refused = rattle("inspect", *arguments, cwd=tmp_path)
        assert refused.returncode == 1
        assert refused.stderr.startswith("Error: ")
        assert refused.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
