"""The actions that each world has taken in its episode in progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import EnvError

#: Actions that a stored log may spread to: a stranger's few bytes must not claim all memory.
_MOST_ACTIONS = 2**30


class ActionLog:
    """Actions of W worlds since each world's episode began, in the smallest integer type that holds them."""

    def __init__(self, num_worlds: int, num_actions: int) -> None:
        self._num_actions = num_actions
        self._actions = np.zeros((64, num_worlds), np.min_scalar_type(num_actions - 1))  # a row a tick
        self._tick = 0  # the next row
        self._start = np.zeros(num_worlds, np.int64)  # the row where each world's episode began

    def append(self, action: NDArray[Any]) -> None:
        """Add one action (W,) to every world."""
        if self._tick == len(self._actions):
            self._make_room()
        self._actions[self._tick] = action
        self._tick += 1

    def clear(self, worlds: NDArray[np.int64] | slice = slice(None)) -> None:
        """Forget the actions of these worlds, or of all."""
        self._start[worlds] = self._tick

    def actions_of(self, world: int) -> NDArray[Any]:
        """Return the actions of one world's episode in progress, oldest first."""
        return self._actions[self._start[world] : self._tick, world]

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies: `length` int64 (W,), and `actions`, all worlds' one after the other."""
        return {"length": self._tick - self._start, "actions": self._actions[: self._tick].T[self._in_progress()]}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` returned; raises EnvError when its arrays contradict each other."""
        length, actions = state["length"], state["actions"]
        fits = actions.ndim == 1 and length.min() >= 0 and length.max() <= len(actions)
        if not fits or length.sum() != len(actions) or (len(actions) and not actions.max() < self._num_actions):
            raise EnvError("the stored worlds are damaged: their actions do not belong to their episodes")
        if int(length.max()) * len(length) > _MOST_ACTIONS:
            raise EnvError(f"the stored worlds' longest episode is too long for {len(length)} worlds side by side")
        self._tick = int(length.max())
        self._start = self._tick - length
        self._actions = np.zeros((max(64, self._tick), len(length)), self._actions.dtype)
        for world, own in enumerate(np.split(actions, np.cumsum(length)[:-1])):
            self._actions[self._start[world] : self._tick, world] = own

    def _in_progress(self) -> NDArray[np.bool_]:
        """Return bool (W, ticks): which rows belong to each world's episode in progress."""
        return np.arange(self._tick) >= self._start[:, None]

    def _make_room(self) -> None:
        """Drop the rows that no episode in progress needs; double the rows where that frees less than half."""
        oldest = int(self._start.min())
        kept = self._actions[oldest:]
        rows = len(self._actions) * (1 if 2 * oldest >= len(self._actions) else 2)
        self._actions = np.zeros((rows, kept.shape[1]), kept.dtype)
        self._actions[: len(kept)] = kept
        self._start -= oldest
        self._tick = len(kept)
