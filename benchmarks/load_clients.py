"""Clients that cost little beside the servers that they ask: plain sockets, one thread, requests packed beforehand.

The usual clients in Python cost as much as the server, or twice as much, and share the cores with it.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Protocol


class Client(Protocol):
    """One connection with one request in flight."""

    socket: socket.socket

    def ask(self) -> None:
        """Send the request."""

    def read(self) -> bool:
        """Read what is there; return whether the answer is complete."""


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _receive(connection: socket.socket) -> bytes:
    part = connection.recv(2**18)
    if not part:
        raise ConnectionError("the server has closed the connection")
    return part


class HttpClient:
    """HTTP/1.1 on a connection that stays."""

    def __init__(self, port: int, path: str, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> None:
        self.socket = _connect(port)
        more = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n{more}\r\n"
        self._request = head.encode() + body
        self._seen = b""

    def ask(self) -> None:
        """Send the request."""
        self.socket.sendall(self._request)

    def read(self) -> bool:
        """Read what is there; return whether the answer is complete."""
        self._seen += _receive(self.socket)
        head, found, body = self._seen.partition(b"\r\n\r\n")
        if not found:
            return False
        if b" 200 " not in head[:16]:
            raise ConnectionError(self._seen[:500].decode())
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return False
        self._seen = b""
        return True


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + content


_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _ACKNOWLEDGED, _END_HEADERS = 1, 1, 4


class GrpcClient:
    """A unary gRPC call at a time on an HTTP/2 connection; for messages that are smaller than its first window."""

    def __init__(self, port: int, path: str, message: bytes, headers: Sequence[tuple[str, str]] = ()) -> None:
        self.socket = _connect(port)
        window = struct.pack(">HI", 4, 2**30)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, window))
        self.socket.sendall(_frame(8, 0, 0, struct.pack(">I", 2**30)))
        # The first request puts its headers into the table of the connection, the next ones point at them.
        self._headers = b"\x83\x86" + b"".join(
            (
                b"\x44" + _text(path),
                b"\x41" + _text(f"127.0.0.1:{port}"),
                b"\x40" + _text("te") + _text("trailers"),
                b"\x5f" + _text("application/grpc"),
                *(b"\x40" + _text(name) + _text(value) for name, value in headers),
            )
        )
        self._again = b"\x83\x86" + bytes(range(0xC1 + len(headers), 0xBD, -1))
        self._content = b"\x00" + struct.pack(">I", len(message)) + message
        self._stream = 1
        self._seen = b""

    def ask(self) -> None:
        """Send the request."""
        head = _frame(_HEADERS, _END_HEADERS, self._stream, self._headers)
        self.socket.sendall(head + _frame(_DATA, _END_STREAM, self._stream, self._content))
        self._headers = self._again
        self._stream += 2

    def read(self) -> bool:
        """Read what is there; return whether the answer is complete."""
        self._seen += _receive(self.socket)
        complete = False
        while len(self._seen) >= 9:
            length = int.from_bytes(self._seen[:3], "big")
            if len(self._seen) < 9 + length:
                break
            kind, flags, content = self._seen[3], self._seen[4], self._seen[9 : 9 + length]
            complete = complete or self._is_end(kind, flags, content)
            self._seen = self._seen[9 + length :]
        return complete

    def _is_end(self, kind: int, flags: int, content: bytes) -> bool:
        if kind in (_RESET, _GO_AWAY):
            raise ConnectionError(f"the server has ended the stream: {content!r}")
        if kind in (_SETTINGS, _PING) and not flags & _ACKNOWLEDGED:
            self.socket.sendall(_frame(kind, _ACKNOWLEDGED, 0, content if kind == _PING else b""))
        return kind == _HEADERS and bool(flags & _END_STREAM)


def _text(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()


def latencies(clients: Sequence[Client], seconds: float) -> list[float]:
    """Have every client ask again and again, and return how long each answer took."""
    poll, began = select.epoll(), time.perf_counter()
    by_number = {client.socket.fileno(): client for client in clients}
    asked = {}
    for number, client in by_number.items():
        poll.register(number, select.EPOLLIN)
        client.ask()
        asked[number] = time.perf_counter()
    taken = []
    while time.perf_counter() - began < seconds:
        for number, _ in poll.poll():
            client = by_number[number]
            if client.read():
                now = time.perf_counter()
                taken.append(now - asked[number])
                asked[number] = now
                client.ask()
    for client in clients:
        client.socket.close()
    return taken
