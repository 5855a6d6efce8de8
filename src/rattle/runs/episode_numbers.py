"""Numbers of episodes that stay unique in a run, also where worlds were lost and count from 0 again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.runs.errors import RunError


class EpisodeNumbers:
    """Raises the numbers of worlds that began again above all that they had; others stay as they are."""

    def __init__(self, worlds: int) -> None:
        self._raised_by = np.zeros(worlds, np.int64)
        self._last = np.full(worlds, -1, np.int64)  # the highest number so far
        self._is_anew = np.ones(worlds, np.bool_)  # the next episode is none that is in progress

    def number(self, world_episode: NDArray[np.uint32], first_world: int) -> NDArray[np.uint32]:
        """Return unique numbers for the episodes of (T, W) ticks of some worlds, from number `first_world` on."""
        own = slice(first_world, first_world + world_episode.shape[1])
        first, last = world_episode[0] + self._raised_by[own], self._last[own]
        collides = (first < last) | (self._is_anew[own] & (first == last))
        self._raised_by[own] += np.where(collides, last + 1 - first, 0)
        numbers = (world_episode + self._raised_by[own]).astype(np.uint32)
        self._last[own] = numbers.max(axis=0)
        self._is_anew[own] = False
        return numbers

    def begin_anew(self, worlds: slice) -> None:
        """Note that the episodes in progress of some worlds will not continue."""
        self._is_anew[worlds] = True

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of all that decides what follows."""
        return {"raised_by": self._raised_by.copy(), "last": self._last.copy(), "is_anew": self._is_anew.copy()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue where `state` was taken."""
        if state["last"].shape != self._last.shape:
            raise RunError("the stored episodes are of another number of worlds")
        self._raised_by[:], self._last[:] = state["raised_by"], state["last"]
        self._is_anew[:] = state["is_anew"]
