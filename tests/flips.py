"""A network that flips bits: a TCP proxy before a server, for tests."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class FlippingProxy:
    """Passes everything on, and flips one bit in some of the pieces that it reads, in both directions.

    `flips` bits in each direction; every piece is damaged with a probability of `share`. The bits are those of `seed`
    as far as pieces are the same.
    """

    def __init__(self, server: tuple[str, int], flips: int, share: float = 0.2, seed: int = 0) -> None:
        self._server = server
        self._left = {"there": flips, "back": flips}
        self._share = share
        self._random = {way: random.Random(f"{seed} {way}") for way in self._left}  # noqa: S311
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._swallowed: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def left(self) -> int:
        """Return how many bits are still to be flipped."""
        return sum(self._left.values())

    def swallow(self) -> None:
        """Pass nothing on any more of the connections that there are now; they stay open."""
        with self._lock:
            self._swallowed |= self._sockets

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for one in (self._listener, *self._sockets):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._server)
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._sockets |= {client, server}
                for way, source, target in (("there", client, server), ("back", server, client)):
                    threading.Thread(target=self._pass_on, args=(way, source, target), daemon=True).start()

    def _pass_on(self, way: str, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(2**16):
                if source not in self._swallowed:
                    target.sendall(self._damage(way, piece))
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets.discard(source)
            source.close()

    def _damage(self, way: str, piece: bytes) -> bytes:
        with self._lock:
            draw = self._random[way]
            if not self._left[way] or draw.random() >= self._share:
                return piece
            self._left[way] -= 1
            bit = draw.randrange(8 * len(piece))
        damaged = bytearray(piece)
        damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
