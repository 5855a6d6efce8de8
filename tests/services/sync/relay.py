"""Stands between a UDP service and its clients: carries datagrams, remembers them, and sends what strangers would."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any, Self

Address = tuple[str, int]


class Relay:
    """Both sides hear strangers from the very addresses that they listen to.

    With every datagram of a client, `copies` of those that were recorded go to where they were meant for, and all
    of `forged` to the service.
    """

    def __init__(
        self,
        service: Address,
        recorded: list[tuple[bool, bytes]],
        copies: int = 0,
        forged: Sequence[bytes] = (),
    ) -> None:
        """Carry, and add to `recorded` whether each datagram goes to the service, and its bytes."""
        self._recorded = recorded
        self._service, self._copies, self._forged = service, copies, forged
        self._random = Random(1)  # noqa: S311 - of a test
        self._near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._near.bind(("127.0.0.1", 0))
        self.address: str = "{}:{}".format(*self._near.getsockname())
        self._far: dict[Address, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._near, selectors.EVENT_READ)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def replay(self) -> int:
        """Send the service all that was recorded of its newest client; returns how many datagrams those are."""
        far = list(self._far.values())[-1]
        meant_for_it = [data for to_service, data in list(self._recorded) if to_service]
        for data in meant_for_it:
            far.send(data)
        return len(meant_for_it)

    def _run(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select(0.1):
                with suppress(OSError):  # nobody listens there just now
                    self._carry(key.fileobj, key.data)

    def _carry(self, source: Any, client: Address | None) -> None:
        """Carry what has come from a client, or at the socket that stands for one."""
        to_service = client is None
        data, sender = source.recvfrom(2048)
        client = client or sender
        self._recorded.append((to_service, data))
        self._send(client, to_service, data)
        if to_service:  # not with answers to what strangers send, or there would be ever more
            for was_to_service, old in self._random.choices(self._recorded, k=self._copies):
                self._send(client, was_to_service, old)
            for said in self._forged:
                self._send(client, to_service, said)

    def _send(self, client: Address, to_service: bool, data: bytes) -> None:
        if not to_service:
            self._near.sendto(data, client)
            return
        if client not in self._far:
            self._far[client] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._far[client].connect(self._service)
            self._selector.register(self._far[client], selectors.EVENT_READ, client)
        self._far[client].send(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping = True
        self._thread.join()
        self._selector.close()
        for one in (self._near, *self._far.values()):
            one.close()
