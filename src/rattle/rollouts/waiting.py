"""Agents that wait for each other: the result of a move is known when it is the agent's turn again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.samples.rollout import Played


@contextmanager
def standing_still(memory: NDArray[np.float32] | None, waits: NDArray[np.bool_]) -> Iterator[None]:
    """Have what slots remember, (B, S), stay as it is where they wait (B,): time passes for agents that act only."""
    kept = None if memory is None else memory[waits]
    yield
    if memory is not None:
        memory[waits] = kept


#: What is known of a move when it is made, and what it has earned so far.
_MOVE = ("observation", "action", "log_prob", "value", "reward")


class OpenMoves:
    """The last move of every slot that waits, held back until its result is known.

    A rollout has what an agent earns, and its end, in the row of its last move, though both may come while it waits. A
    move whose agent still waits after the last tick is part of the next rollout instead, in row 0, where the slot has
    no move of its own; what it led to is then worth what the policy predicted where it was held back.
    """

    def __init__(self, buffer: Played) -> None:
        """`buffer` is what rollouts are filled in."""
        self._is_open = np.zeros(buffer.slots, np.bool_)
        self._moves = {name: np.zeros_like(getattr(buffer, name)[0]) for name in _MOVE}
        if "memory" in buffer.arrays:
            self._moves["memory"] = np.zeros_like(buffer.memory)
        self._moves["delay"] = np.zeros_like(buffer.delay)

    def forget(self) -> None:
        """Drop all moves: nothing of what comes is theirs."""
        self._is_open[:] = False

    def settle(
        self, rollout: Played, acts_next: NDArray[np.bool_], memory_before: NDArray[np.float32] | None = None
    ) -> None:
        """Put what came while agents waited where their last moves are, and hold back moves that are still open.

        `acts_next` (B,) says which slots act on what is observed after the last tick; `memory_before` (B, S) is what
        each slot remembered before its last move. Rewards and ends of agents that have not moved are dropped.
        """
        self._put_back(rollout)
        last = _credit(rollout)
        stays = self._is_open & (last == 0)
        self._is_open[:] = (last >= 0) & ~acts_next
        slots = np.flatnonzero(self._is_open)
        ticks = last[slots]
        self._moves["delay"][:] = rollout.ticks - last + rollout.delay * (last == 0)
        for name in _MOVE:
            self._moves[name][slots] = getattr(rollout, name)[ticks, slots]
        if memory_before is not None:
            made_here = self._is_open & ~stays
            self._moves["memory"][made_here] = memory_before[made_here]
        rollout.last_value[slots] = rollout.value[ticks, slots]
        rollout.reward[ticks, slots] = 0.0
        rollout.active[ticks, slots] = False

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of all that is held back."""
        return {"is_open": self._is_open.copy(), **{name: array.copy() for name, array in self._moves.items()}}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Hold back what `state` did; raises ValueError or KeyError where it is of other slots or spaces."""
        self._is_open[:] = state["is_open"]
        for name, array in self._moves.items():
            array[:] = state[name]

    def _put_back(self, rollout: Played) -> None:
        slots = np.flatnonzero(self._is_open)
        rollout.delay[:] = 0
        for name, array in self._moves.items():
            if name in ("memory", "delay"):
                getattr(rollout, name)[slots] = array[slots]
            elif name == "reward":
                rollout.reward[0, slots] += array[slots]
            else:
                getattr(rollout, name)[0, slots] = array[slots]
        rollout.active[0, slots] = True


def _credit(rollout: Played) -> NDArray[np.int64]:
    """Move rewards and ends to the last moves before them; return the ticks of moves still open, (B,), -1 for none."""
    last = np.full(rollout.slots, -1)
    for tick in range(rollout.ticks):
        active, reward = rollout.active[tick], rollout.reward[tick]
        last[active] = tick
        ended = rollout.terminated[tick] | rollout.truncated[tick]
        came = np.flatnonzero(~active & (ended | (reward != 0)))
        if came.size:
            slots = came[last[came] >= 0]
            for array in (rollout.reward, rollout.terminated, rollout.truncated, rollout.final_value):
                array[last[slots], slots] += array[tick, slots]
                array[tick, came] = 0
            slots = slots[ended[slots]]
            for array in rollout.metrics.values():
                array[last[slots], slots] = array[tick, slots]
        last[ended] = -1
    return last
