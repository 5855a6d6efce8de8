"""What the requests of a process hold together: each is bounded by itself, and their sum is bounded here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rattle.services.utils.memory import give_memory_back_soon
from rattle.wire.problems import RequestError

#: Bytes of bodies and messages that a process holds at a time: sixteen of the largest that services take by default.
_MOST_BYTES = 2**28
#: Requests up to this size may use all of it, larger ones three quarters: those leave room for moves and steps.
_SMALL_BYTES = 2**16
#: When so much has been held at a time and is not any more, its memory is given back.
_BURST_BYTES = 2**26
_END_ONE = "end one, or wait"


class ByteBudget:
    """Bytes that are held for requests that are being read or answered; used by one thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._burst = 0  # the most that was held since all was calm

    def take(self, size: int, own: int) -> bool:
        """Hold so many bytes more for a request that has `own` already; False where there is no room for them."""
        room = self.limit if own + size <= _SMALL_BYTES else self.limit // 4 * 3
        if self.held + size > room:
            return False
        self.held += size
        self._burst = max(self._burst, self.held)
        return True

    def give_back(self, size: int) -> None:
        """Hold so many bytes no more."""
        self.held -= size
        self._give_memory_back()

    def note(self, size: int) -> None:
        """Know of a request of this size that others have held, and hold no more."""
        self._burst = max(self._burst, size)
        self._give_memory_back()

    def _give_memory_back(self) -> None:
        if self._burst >= _BURST_BYTES and self.held < _BURST_BYTES // 4:
            self._burst = 0
            give_memory_back_soon()

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


class Shares:
    """Places that peers hold: each leaves an eighth of what the others leave, so that somebody else finds room.

    Of fewer than eight places one peer may hold all.
    """

    def __init__(self, places: int, what: str) -> None:
        self.places = places
        self._what = what
        self._held: Counter[str] = Counter()

    def take(self, peer: str) -> None:
        """Give a peer one place more; raises RequestError (full) where it may have none."""
        used, held = self._held.total(), self._held[peer]
        if used >= self.places:
            raise RequestError("full", f"all {self.places} {self._what} are in use: {_END_ONE}")
        if held >= share(self.places, used - held):
            raise RequestError("full", f"{peer} has {held} of {self.places} {self._what} in use: {_END_ONE}")
        self._held[peer] += 1

    def give_back(self, peer: str) -> None:
        """Take a place back."""
        self._held[peer] -= 1
        if not self._held[peer]:
            del self._held[peer]

    @contextmanager
    def holding(self, peer: str) -> Iterator[None]:
        """Give a peer a place for the time of the block; raises RequestError (full)."""
        self.take(peer)
        try:
            yield
        finally:
            self.give_back(peer)


def share(places: int, of_others: int) -> int:
    """Return how many places one peer may hold where others hold so many."""
    left = places - of_others
    return left - left // 8


#: That of this process, for everything that its event loop serves.
BUDGET = ByteBudget(_MOST_BYTES)
