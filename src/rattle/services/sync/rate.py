"""How many ticks a second there have been lately. No clock."""

from __future__ import annotations

from collections import deque

#: Between two samples, and how far back the oldest lies at most, in seconds.
_SPACING, _WINDOW = 0.5, 5.0


class Rate:
    """Ticks a second over the last seconds; told of each tick, or of some."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, tick: int, now: float) -> None:
        """Take what tick it is."""
        if not self._samples or now >= self._samples[-1][0] + _SPACING:
            self._samples.append((now, tick))
            while self._samples[0][0] < now - _WINDOW - _SPACING:
                self._samples.popleft()

    def per_second(self, tick: int, now: float) -> float:
        """Return the rate up to now."""
        recent = [sample for sample in self._samples if now - _WINDOW - _SPACING <= sample[0] < now]
        if not recent:
            return 0.0
        return (tick - recent[0][1]) / (now - recent[0][0])
