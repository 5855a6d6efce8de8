"""Clocks that differ from this host's, as far as messages and the store tell."""

from __future__ import annotations

from typing import Any, Final, Literal

from prometheus_client import Counter

from rattle.events import emit
from rattle.events.of_telemetry import ClockDiffers
from rattle.text import one_line

#: Clocks may differ by so many seconds.
TOLERANCE: Final = 5.0
#: The names of hosts are strangers' text: no more of them are kept.
_MOST_HOSTS: Final = 1000

Place = Literal["producer", "store"]


class Clocks:
    """Counts what shows that a clock differs, and tells it once per host. Times are seconds since 1970 by this clock.

    A message may have waited, so that its age says nothing. But it was not sent after it came, nor before a moment at
    which the queue was empty. A broker that stands still keeps a message back on the connection: so a clock is behind
    only if messages say so both before and after another such moment.
    """

    def __init__(self, differences: Counter) -> None:
        self._differences = differences
        self._told: set[tuple[Place, str]] = set()
        self._seems_behind: dict[str, float] = {}  # since when, by host

    def compare(self, properties: Any, queue_was_empty: float | None, now: float) -> None:
        """Look at a message that came `now`, and into the queue after `queue_was_empty`, where that is known."""
        headers = properties.headers or {}
        microseconds, host = headers.get("sent"), one_line(headers.get("host") or "unknown", 100)
        if not isinstance(microseconds, int):
            return
        sent = microseconds / 1e6
        if sent - now > TOLERANCE:
            self._tell("producer", host, sent - now)
        elif queue_was_empty is None:
            return
        elif queue_was_empty - sent <= TOLERANCE:
            self._seems_behind.pop(host, None)
        elif len(self._seems_behind) < _MOST_HOSTS and self._seems_behind.setdefault(host, now) < queue_was_empty:
            self._tell("producer", host, sent - queue_was_empty)

    def compare_store(self, url: str, asked: float, said: float, answered: float) -> None:
        """Look at the time that a store `said` it was, between a question and its answer."""
        off = said - min(max(said, asked), answered)
        if abs(off) > TOLERANCE:
            self._tell("store", url, off)

    def _tell(self, place: Place, host: str, seconds: float) -> None:
        self._differences.labels(place).inc()
        if (place, host) not in self._told and len(self._told) < _MOST_HOSTS:
            self._told.add((place, host))
            emit(ClockDiffers(place=place, host=host, seconds=round(seconds, 1)))
