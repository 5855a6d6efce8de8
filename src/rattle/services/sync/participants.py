"""Who is told the time: HOST:PORT, looked up again now and then, each with a socket of its own."""

from __future__ import annotations

import ipaddress
import math
import socket
import threading
from typing import Any

from rattle.events import emit, of_services
from rattle.services.utils.sockets import ServiceError

#: A participant that cannot be told is warned of so often at most, in seconds.
_WARN_SECONDS = 60.0

#: Datagrams of a participant that are read before it is told again.
_MOST_TAKEN = 16

#: A family of addresses, and an address of it.
_Place = tuple[int, tuple[Any, ...]]


class Participant:
    """One that is told; `find` may be called in any thread, the others in one.

    Its socket is its own: what the system keeps for one that cannot be reached would leave the others no room.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent = 0
        self.failed = 0  # were not sent, or are known not to have arrived
        self.problem: str | None = None
        self._host, self._port = _split(name)
        self.looked_up = threading.Event()
        self.may_move = not _is_numeric(self._host)
        self._places: list[_Place] = []
        self._place: _Place | None = None
        self._unknown = f"the address of '{self._host}' is not known yet"
        self._socket: socket.socket | None = None
        self._warn_at = -math.inf
        self._was_refused = False  # what was sent last, as is known

    @property
    def address(self) -> str | None:
        """Return the address that it is told at, None while that is not known."""
        return None if self._place is None else str(self._place[1][0])

    def find(self) -> None:
        """Look up its address; waits for that as long as it takes. Where it cannot be had, the last one stays."""
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "this is no name of a host"
            self._unknown = f"'{self._host}' cannot be found: {reason}"
        else:
            self._places = [(family, address) for family, _, _, _, address in found]
        self.looked_up.set()

    def send(self, data: bytes, now: float) -> None:
        """Send it a datagram at once or not at all."""
        places = self._places
        try:
            if self._socket is None or self._place not in places:
                self._connect(places)
            problem = self._unknown if self._socket is None else self._try(self._socket, data)
        except OSError as error:
            problem = error.strerror or "this address cannot be used"
        if problem is None:
            self.sent += 1
        else:
            self.failed += 1
            if now >= self._warn_at:
                self._warn_at = now + _WARN_SECONDS
                emit(of_services.NotTold(participant=self.name, problem=problem))
        self.problem = problem

    def take(self) -> list[bytes]:
        """Return what it has sent, no more than a few at a time."""
        taken: list[bytes] = []
        if self._socket is not None:
            try:
                while len(taken) < _MOST_TAKEN:
                    taken.append(self._socket.recv(2048))
            except ConnectionRefusedError:
                self._was_refused = True
            except OSError:
                pass
        return taken

    def close(self) -> None:
        """Free its socket."""
        if self._socket is not None:
            self._socket.close()

    def _try(self, connected: socket.socket, data: bytes) -> str | None:
        """Return what is wrong."""
        try:
            if self._was_refused:
                raise ConnectionRefusedError
            connected.send(data)
        except ConnectionRefusedError:  # the datagram before was; this one has not been sent
            self._was_refused = False
            if len(self._places) > 1:
                self._connect(self._places)
            elif self._socket is not None:
                self._socket.send(data)
            return "nobody listens there"
        return None

    def _connect(self, places: list[_Place]) -> None:
        """Turn to the place after the present one, or to the first."""
        self.close()
        self._socket = None
        number = places.index(self._place) + 1 if self._place in places else 0
        self._place = places[number % len(places)] if places else None
        if self._place is not None:
            family, address = self._place
            made = socket.socket(family, socket.SOCK_DGRAM)
            try:
                made.setblocking(False)
                made.connect(address)
            except OSError:
                made.close()
                raise
            self._socket = made


def participants(names: tuple[str, ...]) -> list[Participant]:
    """Return whom to tell; raises ServiceError where a name is no HOST:PORT, is there twice, or there is none."""
    if not names:
        raise ServiceError("sync.mode is pace, but nobody is to be told: add --participant HOST:PORT")
    check_once(names)
    return [Participant(name) for name in names]


def check_once(names: tuple[str, ...]) -> None:
    """Raise ServiceError where a name is there twice."""
    for name in names:
        if names.count(name) > 1:
            raise ServiceError(f"sync.participants: {name} is there twice")


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _split(name: str) -> tuple[str, int]:
    host, _, port = name.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not bare or (":" in host and bare == host) or not (port.isascii() and port.isdecimal()):
        raise ServiceError(f"sync.participants: '{name}' is no HOST:PORT, such as 127.0.0.1:5556 or [::1]:5556")
    if not 1 <= int(port) <= 65535:
        raise ServiceError(f"sync.participants: the port of '{name}' is not between 1 and 65535")
    return bare, int(port)
