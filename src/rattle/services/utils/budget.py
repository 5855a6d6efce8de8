"""What the requests of a process hold together: each is bounded by itself, and their sum is bounded here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rattle.wire.problems import RequestError

#: Bytes of bodies and messages that a process holds at a time: sixteen of the largest that services take by default.
_MOST_BYTES = 2**28
#: Requests up to this size may use all of it, larger ones three quarters: those leave room for moves and steps.
_SMALL_BYTES = 2**16


class ByteBudget:
    """Bytes that are held for requests that are being read or answered; used by one thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, size: int, own: int) -> bool:
        """Hold so many bytes more for a request that has `own` already; False where there is no room for them."""
        room = self.limit if own + size <= _SMALL_BYTES else self.limit // 4 * 3
        if self.held + size > room:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """Hold so many bytes no more."""
        self.held -= size

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Hold the bytes of a whole request while the block works on it; raises RequestError without room."""
        if not self.take(size, 0):
            raise self.full()
        try:
            yield
        finally:
            self.give_back(size)

    def fit(self, largest: int) -> None:
        """Let two requests be held of the largest size that a service takes."""
        self.limit = max(self.limit, 2 * largest)

    def most(self, largest: int) -> int:
        """Return how many requests of the largest size may be read at a time."""
        return max(1, self.limit // largest)

    def full(self) -> RequestError:
        """Return what to say to a request for which there is no room."""
        return RequestError("full", f"requests of {self.held} bytes are being read or answered: try again in a while")


#: That of this process, for everything that its event loop serves.
BUDGET = ByteBudget(_MOST_BYTES)
