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


#: A run in which nothing happens for so many seconds is said to stand still; again after twice as many.
STILL_SECONDS = 60.0


class Stillness:
    """How long nothing has happened in a run; has no clock."""

    def __init__(self, now: float) -> None:
        self._sign: object = None
        self._moved_at = now
        self._longest = 0.0  # seconds between two moves so far
        self._say_at = STILL_SECONDS

    def look(self, sign: object, now: float) -> bool:
        """Take what changes when something happens; return whether it is time to say that nothing does."""
        if sign != self._sign:
            self._longest = max(self._longest, now - self._moved_at)
            self._sign, self._moved_at, self._say_at = sign, now, STILL_SECONDS
        if self.seconds(now) < self._say_at:
            return False
        self._say_at *= 2
        return True

    def seconds(self, now: float) -> float:
        """Return for how long nothing has happened."""
        return now - self._moved_at

    def is_unusual(self, now: float) -> bool:
        """Whether nothing has happened for far longer than at any time before."""
        return self.seconds(now) > max(STILL_SECONDS, 3 * self._longest)
