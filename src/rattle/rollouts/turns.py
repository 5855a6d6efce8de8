"""Threads that step worlds of others: side by side or in turn, whichever the first ticks show to be quicker.

NumPy gives the interpreter's lock away in every operation on a few hundred numbers. Two threads that step such worlds
spend most of their time in waking each other; in turn, one steps while the other acts, which needs no lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import inf

#: Blocks of ticks that are played each way before the choice: the quickest of each count, since machines are busy.
TRIED = 4


class TurnTaking:
    """Chooses for each block of ticks whether threads take turns; what they play is the same either way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._best = {True: inf, False: inf}  # seconds a tick, by whether threads took turns
        self._tries = 0

    @property
    def take_turns(self) -> bool:
        """Whether threads take turns in the next block."""
        if self._tries < 2 * TRIED:
            return self._tries % 2 == 0
        return self._best[True] < self._best[False]

    @contextmanager
    def block(self, ticks: int) -> Iterator[AbstractContextManager[object]]:
        """Give what a thread holds while it is under the interpreter's lock, for a block of so many ticks."""
        take_turns, began = self.take_turns, time.perf_counter()
        yield self._lock if take_turns else nullcontext()
        if self._tries < 2 * TRIED:
            self._tries += 1
            self._best[take_turns] = min(self._best[take_turns], (time.perf_counter() - began) / ticks)
