"""The addresses that services listen on."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from typing import Any

from rattle.errors import RattleError
from rattle.events import of_services

BACKLOG = 2048
#: What the system keeps of an answer before it has been sent: old lines for a slow reader wait here, so not for long.
_UNSENT_BYTES = 2**14


class ServiceError(RattleError):
    """A service cannot run."""


class PortTaken(ServiceError):
    """Another program listens on a service's port."""

    event = of_services.PortTaken


def listen(host: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Return a bound socket; raises ServiceError in one line when the address cannot be had, PortTaken if it is."""
    what = "port" if kind == socket.SOCK_STREAM else "UDP port"
    family, address = _resolve(host, port, kind)[0]
    listener = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
            listener.listen(BACKLOG)  # two sockets may be bound to one port as long as none listens
    except OSError as error:
        listener.close()
        kind_of_error = PortTaken if error.errno == errno.EADDRINUSE else ServiceError
        raise kind_of_error(f"cannot listen on {what} {port} of {host}: {error.strerror}; choose another") from None
    return listener


def check_loopback(host: str) -> None:
    """Raise ServiceError where other machines reach a host to listen on, as nobody may who asks for no token."""
    numbers = [ip_address(str(address[0]).partition("%")[0]) for _, address in _resolve(host, 0, socket.SOCK_STREAM)]
    # A name may have several, and gRPC listens on all of them.
    if not all((getattr(number, "ipv4_mapped", None) or number).is_loopback for number in numbers):
        raise ServiceError(
            f"listening on {host} without a token lets everybody in who reaches it: name a token's file with "
            "--set security.token_file=FILE, or say --set security.trust_network=true"
        )


def _resolve(host: str, port: int, kind: socket.SocketKind) -> list[tuple[int, Any]]:
    """List the family and the address of a host to listen on, the best first; raises ServiceError."""
    try:
        found = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is no name of a host"
        raise ServiceError(f"cannot listen on '{host}': {reason}; choose another host") from None
    return [(family, address) for family, _, _, _, address in found]


def url_of(listener: socket.socket, tls_name: str | None = None) -> str:
    """Return the URL of a bound socket: of https, where it is known by a name in a certificate."""
    host, port = listener.getsockname()[:2]
    return f"http://{address_of(host, port)}" if tls_name is None else f"https://{address_of(tls_name, port)}"


def address_of(host: str, port: int) -> str:
    """Return HOST:PORT of a service as a client on this machine reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{host}:{port}"
