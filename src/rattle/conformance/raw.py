"""Plain sockets, for requests that no client library sends: cut ones, half-closed ones, ones that lie."""

from __future__ import annotations

import contextlib
import socket

from rattle.conformance.target import Target
from rattle.tls import tls_context

#: Seconds in which a server closes the connection that its client has left; one that does not is not waited for.
_CLOSING = 1.0


def open_socket(target: Target) -> socket.socket:
    """Connect to the server; every wait on the socket ends with the target's time-out."""
    address = target.address
    plain = socket.create_connection((address.host, address.port), timeout=target.timeout)
    if not address.tls:
        return plain
    return tls_context().wrap_socket(plain, server_hostname=address.host)


def request_bytes(target: Target, method: str, path: str, body: bytes, media_type: str, length: int = -1) -> bytes:
    """Return a request as bytes; `length` is the Content-Length that it claims, -1 for the true one."""
    head = (
        f"{target.head(method, path)}"
        f"Content-Type: {media_type}\r\nContent-Length: {len(body) if length < 0 else length}\r\n\r\n"
    )
    return head.encode() + body


def send_and_leave(target: Target, data: bytes) -> None:
    """Send bytes and close the connection, whatever is answered.

    The sending half is closed first. A server closes the other half when it has noticed that, so the requests that
    follow reach a server that knows of the cut.
    """
    target.note(f"sent {len(data)} bytes of a request and closed the connection: {data[:160]!r}")
    with open_socket(target) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        connection.settimeout(min(_CLOSING, target.timeout))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass


def first_line(target: Target, data: bytes) -> str | None:
    """Send bytes and return the status line that comes back, or None when none comes in time.

    The connection stays open meanwhile, so that only an answer given without the rest of the body counts.
    """
    with open_socket(target) as connection:
        try:
            connection.sendall(data)
            received = b""
            while b"\r\n" not in received:
                more = connection.recv(4096)
                if not more:
                    break
                received += more
        except (TimeoutError, ConnectionError):
            received = b""
    line = received.partition(b"\r\n")[0].decode("latin-1")
    target.note(f"{data[:160]!r}  ->  {line or 'no answer'}")
    return line or None
