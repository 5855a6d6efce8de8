"""The spaces of a snake as Gymnasium states them, and the actions that come out of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from numpy.typing import NDArray

from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.vector import CodeSpace


def spaces_of(worlds: SnakeWorlds) -> tuple[Space[NDArray[np.uint8]], Discrete]:
    """Return new spaces of one snake: observation, Box uint8 (cells,) of cell codes, and action, Discrete."""
    space = worlds.spec.observation_space
    assert isinstance(space, CodeSpace)  # noqa: S101 - snakes see codes
    observation: Space[Any] = Box(0, space.codes - 1, (space.cells,), np.uint8)
    return observation, Discrete(worlds.spec.num_actions)


def whole_numbers(actions: Any) -> NDArray[Any]:
    """Return actions as an array, in the one integer type that the kernel is compiled for where they are integers."""
    array = np.asarray(actions)
    return np.ascontiguousarray(array, np.int64) if array.dtype.kind in "iu" else array
