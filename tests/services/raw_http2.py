"""HTTP/2 by hand: requests that no gRPC client would send, such as half of a message."""

from __future__ import annotations

import socket
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_HEADERS, _ACK, _INITIAL_WINDOW = 4, 1, 4
_FRAME_BYTES = 2**14


class RawConnection:
    """One connection, on which calls are begun and messages sent as far as the server takes them."""

    def __init__(self, handle: socket.socket) -> None:
        self.ended: dict[int, bool] = {}  # streams that the server ended, and whether by a reset
        self.told_to_go = False
        self._handle = handle
        self._received = bytearray()
        self._window = self._first_window = 65535
        self._windows: defaultdict[int, int] = defaultdict(int)  # beside the first one
        self._next = 1
        handle.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))

    def begin(self, path: str) -> int:
        """Begin a gRPC call, and return its stream."""
        stream, self._next = self._next, self._next + 2
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
        fields |= {"content-type": "application/grpc", "te": "trailers"}
        block = b"".join(
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in fields.items()
        )
        self._handle.sendall(_frame(_HEADERS, _END_HEADERS, stream, block))
        return stream

    def reset(self, stream: int) -> None:
        """Give a call up."""
        self._handle.sendall(_frame(_RST_STREAM, 0, stream, struct.pack(">I", 8)))

    def send(self, stream: int, length: int, size: int, seconds: float) -> int:
        """Send so many bytes of a message that says another length; return how many were taken in some seconds."""
        left, until = struct.pack(">BI", 0, length) + bytes(size), time.monotonic() + seconds
        while left and stream not in self.ended and time.monotonic() < until:
            self.read()
            room = min(self._window, self._first_window + self._windows[stream], _FRAME_BYTES, len(left))
            if room <= 0:
                self.read(0.01)
                continue
            try:
                self._handle.sendall(_frame(_DATA, 0, stream, left[:room]))
            except OSError:
                break
            self._window -= room
            self._windows[stream] -= room
            left = left[room:]
        return size + 5 - len(left)

    def read(self, seconds: float = 0.0) -> None:
        """Take in what the server says, waiting for so long."""
        self._handle.settimeout(max(seconds, 1e-6))
        try:
            self._received += self._handle.recv(2**16)
        except TimeoutError:
            return
        except OSError:
            self.told_to_go = True
            return
        while len(self._received) >= 9 and len(self._received) >= 9 + int.from_bytes(self._received[:3], "big"):
            size = int.from_bytes(self._received[:3], "big")
            kind, flags, stream = self._received[3], self._received[4], int.from_bytes(self._received[5:9], "big")
            self._take(kind, flags, stream, bytes(self._received[9 : 9 + size]))
            del self._received[: 9 + size]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream:
                self._windows[stream] += more
            else:
                self._window += more
        elif kind == _SETTINGS and not flags & _ACK:
            for place in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, place)
                if name == _INITIAL_WINDOW:
                    self._first_window = value
            self._handle.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._handle.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            self.told_to_go = True
        elif kind == _RST_STREAM or (kind in (_DATA, _HEADERS) and flags & 1):
            self.ended[stream] = kind == _RST_STREAM


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@contextmanager
def raw_connection(address: str) -> Iterator[RawConnection]:
    """Connect to HOST:PORT."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as handle:
        yield RawConnection(handle)
