"""The course of a number, from its beginning, in a line of any width."""

from __future__ import annotations

_BARS = "▁▂▃▄▅▆▇█"


class Sparkline:
    """Keeps between `width` / 2 and `width` means of equally many values each, however many there are."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._means: list[float] = []
        self._each = 1  # values a mean
        self._open: list[float] = []

    def add(self, value: float) -> None:
        """Take the next value."""
        self._open.append(value)
        if len(self._open) < self._each:
            return
        self._means.append(sum(self._open) / self._each)
        self._open.clear()
        if len(self._means) >= self._width:
            pairs = zip(self._means[::2], self._means[1::2], strict=False)
            self._means = [(one + other) / 2 for one, other in pairs]
            self._each *= 2

    def line(self) -> str:
        """Return bars from the least to the greatest."""
        if not self._means:
            return ""
        least = min(self._means)
        span = max(self._means) - least or 1.0
        # The quotient first: the tiniest spans have no finite reciprocal.
        return "".join(_BARS[round((value - least) / span * (len(_BARS) - 1))] for value in self._means)
