"""The addresses that services listen on."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from rattle.errors import RattleError
from rattle.events import of_services

BACKLOG = 2048
#: Hosts to listen on that mean all addresses of this machine.
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104
#: By version of IP, an address of no machine, which is routed as most others are, and the address of this machine.
_ELSEWHERE = {socket.AF_INET6: "2001:db8::1", socket.AF_INET: "192.0.2.1"}
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


def url_of(listener: socket.socket, name: str | None = None, *, tls: bool = False) -> str:
    """Return the URL of a bound socket, by a name of its host if it is given, else by the address."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{address_of(name or host, port)}"


def address_of(host: str, port: int) -> str:
    """Return HOST:PORT of a service as others reach it."""
    host = reachable(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str) -> str:
    """Return by which address others reach a service that listens on `host`.

    Where that is all addresses, it is the one that this machine speaks to others from; of a machine that reaches no
    other, that of the machine itself.
    """
    if host not in EVERYWHERE:
        return host
    families = [socket.AF_INET] if host == EVERYWHERE[0] else [socket.AF_INET6, socket.AF_INET]
    for family in families:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((_ELSEWHERE[family], 9))  # which only looks up a route
            return str(asking.getsockname()[0])
    return "127.0.0.1" if host == EVERYWHERE[0] else "::1"
