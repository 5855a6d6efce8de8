"""What a server answers is held to what it serves, and what is wrong is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rattle.clients.answers import SlotArrays
from rattle.envs.errors import EnvironmentFailed
from rattle.envs.vector import EnvironmentSpec
from rattle.samples.spaces import DiscreteSpace, FloatSpace
from rattle.wire.arrays import pack
from rattle.wire.vector import EndedSlots, StepAnswer

#: Two worlds of two agents, of which agent 1 of the second world ends.
SPEC = EnvironmentSpec("served", {}, FloatSpace(size=3), DiscreteSpace(n=2), agents_per_world=2)


def step(**changes: Any) -> StepAnswer:
    arrays = {
        "observation": np.zeros((4, 3), np.float32),
        "reward": np.zeros(4, np.float32),
        "terminated": np.zeros(4, np.bool_),
        "truncated": np.array([False, False, False, True]),
        "active": np.ones(4, np.bool_),
        "episode": np.zeros(2, np.uint32),
        "seen": np.zeros((1, 3), np.float32),
        **changes,
    }
    ended = EndedSlots(pack(np.array([3], np.int32)), pack(arrays.pop("seen")), {})
    return StepAnswer(step=17, ended=ended, **{name: pack(array) for name, array in arrays.items()})


def odd(shape: tuple[int, ...], where: tuple[int, ...], number: float) -> Any:
    array = np.zeros(shape, np.float32)
    array[where] = number
    return array


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("field", "name", "shape", "where", "agent"),
    [
        ("reward", "reward", (4,), (2,), 0),
        ("observation", "observation", (4, 3), (3, 1), 1),
        ("seen", "ended.observation", (1, 3), (0, 2), 1),
    ],
)
def test_numbers_that_are_not_finite_are_named_with_step_world_and_agent(
    field: str, name: str, shape: tuple[int, ...], where: tuple[int, ...], agent: int, number: float
) -> None:
    arrays = SlotArrays(SPEC, 2)
    arrays.first_world = 40
    arrays.advance(step())
    with pytest.raises(EnvironmentFailed, match=f"world 41, agent {agent}: {name} of step 17 is not finite"):
        arrays.advance(step(**{field: odd(shape, where, number)}))
