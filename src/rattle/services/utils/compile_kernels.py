"""Compile the kernels of Snake and of its usual policy, for what is installed: images are built with it.

Services in containers may not write where they are installed. What is compiled here they read, where they run on the
same kind of processor; elsewhere each compiles what it needs when it starts, which takes seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rattle.envs.registry import make_worlds
from rattle.envs.snake.open_world import OpenWorld
from rattle.envs.snake.settings import SnakeSettings
from rattle.policies.acting import ActingPolicy
from rattle.policies.kinds import kind_of
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.own.inputs import OWN_INPUTS
from rattle.policies.recurrent.spec import RecurrentSpec
from rattle.policies.sampling import Groups, draw


def compile_kernels() -> None:
    """Play a few ticks of Snake, with policies with and without memory, in all the ways that services and actors do."""
    worlds = make_worlds("snake", {}, 2, seed=0)
    spec = worlds.spec
    common: dict[str, Any] = {
        "observation": spec.observation_space,
        "action": spec.action_space,
        "hidden_sizes": (8,),
        "value_head": True,
    }
    for made in (
        MlpSpec(activation="relu", **common),
        MlpSpec(activation="tanh", **common),
        MlpSpec(activation="relu", inputs=tuple(OWN_INPUTS), **common),
        RecurrentSpec(network="mingru", activation="relu", memory_layers=1, **common),
    ):
        shapes = kind_of(made).parameter_shapes(made)
        policy = ActingPolicy(made, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
        rows = len(worlds.observation)
        action, log_prob = made.action.zeros(rows), np.zeros(rows, np.float32)
        policy.act(worlds.observation, tick=0, action=action, log_prob=log_prob, value=log_prob.copy())
        policy.values(worlds.observation)
        outputs, _ = policy.forward(worlds.observation)
        draw(made.action, outputs, Groups(np.array([rows]), np.zeros(1, np.uint64), np.zeros(1, np.bool_)))
        worlds.step(action)
    OpenWorld(SnakeSettings(), 0, 0).join("snake")


if __name__ == "__main__":
    compile_kernels()
