"""The actions that each world has taken in its episode in progress."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.samples.spaces import ActionSpace

#: Numbers of actions that a stored log may spread to: a stranger's few bytes must not claim all memory.
_MOST_NUMBERS = 2**30
#: Numbers of all worlds' actions together that are kept; older episodes in progress are given up.
_MOST_KEPT = 2**27
#: Ticks of an episode that are kept: to play more of them again would take too long.
_MOST_TICKS = 2**20
#: The length of an episode whose actions are no longer kept, in what `state` returns.
TOO_LONG = -1
#: Where the episode of such a world begins: after all ticks.
_NEVER = 2**62


class ActionLog:
    """Actions of W worlds since each world's episode began, in the fewest bytes.

    Memory is bounded: the actions of an episode that becomes too long are dropped until the world's next episode.
    """

    def __init__(self, num_worlds: int, space: ActionSpace, environment: str = "an environment") -> None:
        """`environment` is its id, for people."""
        self._space = space
        self._environment = environment
        self._actions = np.zeros((64, num_worlds, *space.shape), space.wire_dtype)  # a row a tick
        self._tick = 0  # the next row
        self._start = np.zeros(num_worlds, np.int64)  # the row where each world's episode began
        self._numbers = math.prod(space.shape)  # of an action
        self._most_rows = max(64, min(_MOST_TICKS, _MOST_KEPT // (num_worlds * self._numbers)))
        self._has_warned = False

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
        """Return copies: `length` int64 (W,), or TOO_LONG, and `actions`, all worlds' one after the other."""
        length = np.where(self._start == _NEVER, TOO_LONG, self._tick - self._start)
        return {"length": length, "actions": self._actions[: self._tick].swapaxes(0, 1)[self._in_progress()]}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` returned; raises EnvError when its arrays contradict each other."""
        length, actions = state["length"], state["actions"]
        fits = actions.shape[1:] == self._space.shape and length.min() >= 0 and length.max() <= len(actions)
        if not fits or length.sum() != len(actions) or self._space.find_wrong(actions) is not None:
            raise EnvError("the stored worlds are damaged: their actions do not belong to their episodes")
        if int(length.max()) * len(length) * self._numbers > _MOST_NUMBERS:
            raise EnvError(f"the stored worlds' longest episode is too long for {len(length)} worlds: use fewer worlds")
        self._tick = int(length.max())
        self._start = self._tick - length
        self._actions = np.zeros((max(64, self._tick), len(length), *self._space.shape), self._actions.dtype)
        for world, own in enumerate(np.split(actions, np.cumsum(length)[:-1])):
            self._actions[self._start[world] : self._tick, world] = own

    def _in_progress(self) -> NDArray[np.bool_]:
        """Return bool (W, ticks): which rows belong to each world's episode in progress."""
        return np.arange(self._tick) >= self._start[:, None]

    def _make_room(self) -> None:
        """Drop the rows that no episode in progress needs; double the rows where that frees less than half."""
        oldest = min(int(self._start.min()), self._tick)
        if 2 * oldest < len(self._actions) and 2 * len(self._actions) > self._most_rows:
            oldest = self._give_up_older(len(self._actions) // 2)
        kept = self._actions[oldest:]
        rows = len(self._actions) * (1 if 2 * oldest >= len(self._actions) else 2)
        self._actions = np.zeros((rows, *kept.shape[1:]), kept.dtype)
        self._actions[: len(kept)] = kept
        self._start[self._start != _NEVER] -= oldest
        self._tick = len(kept)

    def _give_up_older(self, row: int) -> int:
        """Drop the episodes that began before a row; return the first row that is still needed."""
        self._start[self._start < row] = _NEVER
        if not self._has_warned:
            self._has_warned = True
            said = (
                f"an episode of '{self._environment}' is longer than the {row:,} ticks whose actions are kept: "
                "a resume begins new episodes"
            )
            warnings.warn(said, RuntimeWarning, stacklevel=4)
        return min(int(self._start.min()), self._tick)
