"""What a bad network does to datagrams, for tests: losses, delays, another order. No socket and no clock."""

from __future__ import annotations

import heapq
import math
from random import Random
from typing import Any

#: A datagram and where it goes, as sockets write addresses.
Outgoing = tuple[Any, bytes]


class DatagramFaults:
    """Loses each datagram with the probability `loss`, holds up the others by a random time of up to `delay_seconds`.

    A sender puts everything through `take`, and calls it again, with nothing new, at `wake_at`.
    """

    def __init__(self, loss: float, delay_seconds: float, random: Random) -> None:
        self.lost = 0
        self._loss = loss
        self._delay_seconds = delay_seconds
        self._random = random
        self._held: list[tuple[float, int, Outgoing]] = []
        self._count = 0  # those that are due at the same time keep their order

    def take(self, datagrams: list[Outgoing], now: float) -> list[Outgoing]:
        """Take the datagrams to send and return those that are sent now, which may be from earlier calls."""
        if not self._loss and not self._delay_seconds:
            return datagrams
        for datagram in datagrams:
            if self._random.random() < self._loss:
                self.lost += 1
            else:
                self._count += 1
                due = now + self._random.random() * self._delay_seconds
                heapq.heappush(self._held, (due, self._count, datagram))
        sent = []
        while self._held and self._held[0][0] <= now:
            sent.append(heapq.heappop(self._held)[2])
        return sent

    def wake_at(self) -> float:
        """Return when the next of those that are held up is due; infinity when there is none."""
        return self._held[0][0] if self._held else math.inf
