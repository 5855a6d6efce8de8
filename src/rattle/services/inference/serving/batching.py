"""Which of the waiting requests the next forward pass takes: sans I/O, the time is an argument."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from rattle.wire.problems import RequestError


class Waits(Protocol):
    """What the joiner has to know of a request."""

    @property
    def rows(self) -> int:
        """Return how many rows it brings."""

    @property
    def deadline(self) -> float:
        """Return when its answer is of no use any more; infinity where it always is."""

    def is_given_up(self) -> bool:
        """Return whether nobody waits for the answer any more."""


Request = TypeVar("Request", bound=Waits)


class DynamicBatcher(Generic[Request]):
    """What came while a forward pass was running makes up the next one, all of it, in order.

    Nothing waits for more to come: where no pass is running, `take` gives what is there.
    """

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.rows = 0  # that wait
        self.running = False
        self.running_rows = 0
        self._waiting: dict[int, Request] = {}  # by identity

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._waiting)

    def fits(self, request: Request) -> bool:
        """Return whether a request may wait in addition to those that do."""
        return self.rows + request.rows <= self.max_rows

    def add(self, request: Request) -> None:
        """Have a request wait; raises RequestError where it does not fit."""
        if not self.fits(request):
            raise RequestError("full", f"{self.rows} rows wait and {self.max_rows} may: try again in a while")
        self._waiting[id(request)] = request
        self.rows += request.rows

    def remove(self, request: Request) -> None:
        """Forget a request; one that does not wait, any more or at all, is unknown to the joiner."""
        if self._waiting.pop(id(request), None) is not None:
            self.rows -= request.rows

    def remove_useless(self, now: float) -> list[Request]:
        """Forget and return the requests that are too late, or given up."""
        useless = [request for request in self._waiting.values() if request.deadline <= now or request.is_given_up()]
        for request in useless:
            self.remove(request)
        return useless

    def take(self) -> list[Request]:
        """Begin a pass of everything that waits; nothing begins while one is running, or where nothing waits."""
        if self.running or not self._waiting:
            return []
        taken = list(self._waiting.values())
        self._waiting.clear()
        self.running, self.running_rows = True, self.rows
        self.rows = 0
        return taken

    def finish(self) -> None:
        """End the pass."""
        self.running, self.running_rows = False, 0
