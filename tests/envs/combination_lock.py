"""An environment of Gymnasium whose actions are several whole numbers, and whose best policy is known."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete
from numpy.typing import NDArray

#: Of each of the locks that are seen: the numbers that open it, counted from 0.
COMBINATIONS = np.array([[0, 0, 0], [2, 0, 3], [1, 1, 2], [2, 1, 1]])
#: Locks in an episode, each of which pays 1 where all its numbers are right.
TICKS = 8


class CombinationLock(gymnasium.Env[Any, Any]):
    """Shows a lock a tick, and pays for each right number, so that the best return is `TICKS`."""

    observation_space, action_space = Discrete(4), MultiDiscrete([3, 2, 4], start=[1, 0, -2])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.locks = self.np_random.integers(0, 4, TICKS + 1).tolist()
        self.tick = 0
        return self.locks[0], {}

    def step(self, action: NDArray[np.int64]) -> tuple[int, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        right = action == COMBINATIONS[self.locks[self.tick]] + self.action_space.start
        self.tick += 1
        return self.locks[self.tick], float(right.mean()), False, self.tick == TICKS, {}
