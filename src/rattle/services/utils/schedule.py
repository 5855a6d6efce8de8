"""When something that recurs is due, without a clock and a timer."""

from __future__ import annotations

import math


class Schedule:
    """Ticks at fixed distances from a start: no drift, and what is missed is left out, not made up for."""

    def __init__(self, frequency: float) -> None:
        self._frequency = frequency
        self._start: float | None = None
        self._count = 0

    def begin(self, now: float) -> None:
        """Have the first tick one period from now."""
        self._start, self._count = now, 1

    def end(self) -> None:
        """Have no more ticks until it begins again."""
        self._start = None

    @property
    def running(self) -> bool:
        """Say whether ticks are to come."""
        return self._start is not None

    def wait(self, now: float) -> float:
        """Return the seconds until the next tick; 0 when it is due, infinity when none is to come."""
        return math.inf if self._start is None else max(0.0, self._start + self._count / self._frequency - now)

    def ticked(self, now: float) -> None:
        """Continue to the next tick that is still to come."""
        if self._start is not None:
            self._count = max(self._count, math.floor((now - self._start) * self._frequency)) + 1
            if self.wait(now) <= 0.0:  # the product was rounded down
                self._count += 1
