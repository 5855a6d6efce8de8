"""What a coordinator wants to have sent, said and done later. Sans I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import inf

from rattle.events import Event
from rattle.services.sync.seats import Address, Membership
from rattle.wire.lockstep import Datagram


class DatagramOutbox:
    """Datagrams until they are taken, events, and when there is something to do at the latest.

    `events` grow until they are taken by whoever shows them.
    """

    def __init__(self, encode: Callable[[Datagram], bytes]) -> None:
        self.counts: Counter[str] = Counter(received=0, sent=0, repeated=0, late=0, replayed=0, unknown=0)
        self.events: list[Event] = []
        self.wake_at = inf
        self._encode = encode
        self._datagrams: list[tuple[Address, bytes]] = []

    def send(self, seat: Membership, datagram: Datagram) -> None:
        """Have a datagram sent to a member."""
        self.send_to(seat.address, datagram)

    def send_to(self, address: Address, datagram: Datagram) -> None:
        """Have a datagram sent."""
        self.counts["sent"] += 1
        self._datagrams.append((address, self._encode(datagram)))

    def say(self, event: Event) -> None:
        """Have people told."""
        self.events.append(event)

    def wake_by(self, at: float) -> None:
        """Have the coordinator woken at some time, or before."""
        if at < self.wake_at:
            self.wake_at = at

    def take(self) -> list[tuple[Address, bytes]]:
        """Return the datagrams to send, each once."""
        datagrams, self._datagrams = self._datagrams, []
        return datagrams
