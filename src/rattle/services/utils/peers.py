"""The connections of a process: how many each address may have, and which of them make room for new ones."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from rattle.services.utils.budget import share


class OpenConnection(Protocol):
    """A connection that may be closed."""

    peer: str

    def make_room(self) -> None:
        """Leave the connections and close at once."""


class Connections:
    """Counts connections by address, and closes silent ones where there are too many; used by one thread.

    Silent is who has not sent the head of a request yet. Others stay: they have their share, or are refused.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._held: Counter[str] = Counter()
        self._silent: dict[OpenConnection, None] = {}  # the oldest first

    def enter(self, connection: OpenConnection) -> None:
        """Count a new connection; where there is no room for it, a silent one is closed."""
        self.used += 1
        self._held[connection.peer] += 1
        silent = None if self.have_room_for(connection.peer) else self._to_close(connection.peer)
        self._silent[connection] = None
        if silent is not None:
            silent.make_room()

    def have_room_for(self, peer: str) -> bool:
        """Return whether requests of an address are answered: it leaves an eighth of what others leave."""
        held = self._held[peer]
        few = self.used <= self.limit // 8
        return few or (self.used <= self.limit and held <= share(self.limit, self.used - held))

    def _to_close(self, peer: str) -> OpenConnection | None:
        """Return the oldest silent connection of an address, or of all where these are too many and it has fewer."""
        own = next((one for one in self._silent if one.peer == peer), None)
        oldest = next(iter(self._silent), None)
        if self.used <= self.limit or oldest is None:
            return own
        return oldest if own is None or self._held[oldest.peer] > self._held[peer] else own

    def hear(self, connection: OpenConnection) -> None:
        """Know that a connection is not silent."""
        self._silent.pop(connection, None)

    def leave(self, peer: str) -> None:
        """Count a connection of an address no more."""
        self.used -= 1
        self._held[peer] -= 1
        if not self._held[peer]:
            del self._held[peer]


#: Those of this process; `serve` says how many there may be.
CONNECTIONS = Connections(2**31)
