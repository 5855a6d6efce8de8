"""A Sync service of one member, an environment: as little of docs/sync-api.md as it takes to lead it."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from rattle.wire.lockstep import Bye, Codec, Datagram, Done, Join, Phase, Ready, Role, SeatRefused, Seen, Tick, Welcome

Kind = TypeVar("Kind")

PATIENCE = 60.0  # seconds that something may take on a busy machine
_REPEAT_SECONDS = 0.2
_HEARTBEAT_MS = 60_000  # the member waits in peace


class FakeSync:
    """Seats the first environment that joins, and tells it to step."""

    def __init__(self, key: bytes | None = None, session: int = 7) -> None:
        self.tick = 0
        self.session = session
        self.left = False
        self._codec = Codec(key, is_service=True)
        self._member: Any = None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(_REPEAT_SECONDS)

    @property
    def address(self) -> str:
        host, port = self._socket.getsockname()
        return f"{host}:{port}"

    def seat(self) -> Join:
        """Wait for the member and give it a seat."""
        join = self._answer_to(None, Join)
        assert (join.role, join.session) == (Role.ENVIRONMENT, 0)
        self._answer_to(Welcome(join.life, self.session, 1, 1, 1, _HEARTBEAT_MS, self._codec.read), Ready)
        return join

    def refuse(self, reason: str) -> None:
        """Wait for the member and give it no seat."""
        join = self._answer_to(None, Join)
        self._send(SeatRefused(join.life, reason, 0, self._codec.read))

    def step(self, ticks: int = 1) -> Mapping[str, bytes]:
        """Have the member step so many ticks; returns the hashes of the last."""
        done: Done | None = None
        for _ in range(ticks):
            self.tick += 1
            tick = Tick(self.session, 1, 1, self.tick, Phase.STEP, self.tick, 0, ())
            while (done := self._answer_to(tick, Done)).tick != self.tick:
                pass
            self._send(Seen(self.session, 1, 1, self.tick, Phase.STEP))
        assert done is not None
        return done.hashes

    def repeat(self) -> Mapping[str, bytes]:
        """Tell the member the last tick once more, as if its answer had been lost."""
        return self._answer_to(Tick(self.session, 1, 1, self.tick, Phase.STEP, 0, 0, ()), Done).hashes

    def say_goodbye(self) -> None:
        """Wait for the member to leave, and tell it that this was heard."""
        bye = self._answer_to(None, Bye)
        assert bye.session == self.session
        self._send(bye)
        self.left = True

    def _answer_to(self, said: Datagram | None, kind: type[Kind]) -> Kind:
        """Say something, again and again if need be, until a datagram of a kind comes."""
        deadline = time.monotonic() + PATIENCE
        if said is not None:
            self._send(said)
        while time.monotonic() < deadline:
            try:
                data, self._member = self._socket.recvfrom(2048)
            except TimeoutError:
                if said is not None:
                    self._send(said)
                continue
            datagram = self._codec.decode(data)
            assert datagram is not None, "the member sent what cannot be read"
            if isinstance(datagram, kind):
                return datagram
        raise AssertionError(f"no {kind.__name__} came")

    def _send(self, datagram: Datagram) -> None:
        self._socket.sendto(self._codec.encode(datagram), self._member)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()
