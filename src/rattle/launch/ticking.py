"""Where the ticks of a run stand, from what its Sync service says of itself. Has no clock."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import msgspec

#: The speed is that of the last so many seconds.
_WINDOW_SECONDS = 5.0


class SyncStatus(msgspec.Struct, frozen=True):
    """What `GET /v1/status` of a Sync service says, as far as it matters here."""

    tick: int = 0
    sequence: int = 0  # in the mode pace, which has no ticks of its own
    finished: bool = False
    waiting_for: tuple[str, ...] = ()
    datagrams: dict[str, int] = {}
    disagreements: tuple[dict[str, Any], ...] = ()


class Ticks(NamedTuple):
    """Where ticks stand."""

    tick: int
    per_second: float


class Ticking:
    """The newest status of a Sync service, and how fast its ticks follow each other."""

    def __init__(self) -> None:
        self.status: SyncStatus | None = None
        self._seen: deque[tuple[float, int]] = deque()
        self._first: tuple[float, int] | None = None
        self._changed: tuple[float, int] | None = None  # when the newest tick was first seen

    def take(self, status: SyncStatus, now: float) -> None:
        """Take an answer of the Sync service."""
        self.status = status
        tick = status.tick or status.sequence
        if not tick:
            return
        self._first = self._first or (now, tick)
        if self._changed is None or tick != self._changed[1]:
            self._changed = now, tick
        self._seen.append((now, tick))
        while now - self._seen[0][0] > _WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def finished(self) -> bool:
        """Whether the last tick is over."""
        return self.status is not None and self.status.finished

    @property
    def now(self) -> Ticks | None:
        """Return the newest tick and the speed of the last seconds; None before the first tick."""
        if self._changed is None:
            return None
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return Ticks(self._changed[1], (last - first) / (ended - began) if ended > began else 0.0)

    @property
    def seconds(self) -> float:
        """Return the seconds between the first and the last tick that was seen."""
        return 0.0 if self._first is None or self._changed is None else self._changed[0] - self._first[0]

    def since(self) -> float | None:
        """Return when the newest tick was first seen; None before the first."""
        return None if self._changed is None else self._changed[0]
