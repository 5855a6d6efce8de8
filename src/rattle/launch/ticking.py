"""Where the ticks of a run stand, from what its Sync service says of itself. Has no clock."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec


class SyncStatus(msgspec.Struct, frozen=True):
    """What `GET /v1/status` of a Sync service says, as far as it matters here."""

    tick: int = 0
    ticks_per_second: float = 0.0
    sequence: int = 0  # in the mode pace, as the next
    frequency: float = 0.0
    finished: bool = False
    waiting_for: tuple[str, ...] = ()
    datagrams: dict[str, int] = {}
    disagreements: tuple[dict[str, Any], ...] = ()


class Ticks(NamedTuple):
    """Where ticks stand."""

    tick: int
    per_second: float


class Ticking:
    """The newest status of a Sync service, and when its ticks were seen."""

    def __init__(self) -> None:
        self.status: SyncStatus | None = None
        self.now: Ticks | None = None  # None before the first tick
        self._first_seen: float | None = None
        self.newest_seen: float | None = None  # when the newest tick was seen first

    def take(self, status: SyncStatus, now: float) -> None:
        """Take an answer of the Sync service."""
        self.status = status
        tick = status.tick or status.sequence
        if not tick:
            return
        if self.now is None or tick != self.now.tick:
            self.newest_seen = now
        self._first_seen = now if self._first_seen is None else self._first_seen
        self.now = Ticks(tick, status.ticks_per_second or status.frequency)

    @property
    def finished(self) -> bool:
        """Whether the last tick is over."""
        return self.status is not None and self.status.finished

    @property
    def seconds(self) -> float:
        """Return the seconds between the first and the newest tick that were seen."""
        return 0.0 if self.newest_seen is None or self._first_seen is None else self.newest_seen - self._first_seen
