"""A member of a lockstep run in an event loop: its socket, its timer, and the faults that tests ask for.

A program of one agent that acts on the tick:

```python
member = LockstepMember(MemberSettings("127.0.0.1:5555"), "scout", Role.AGENT, act, print)
member.start()  # in a running event loop; `act` is called with each `Work`, and calls `member.finish` in the end
```
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Any

from rattle.clients.datagram_faults import DatagramFaults
from rattle.clients.errors import ClientError
from rattle.clients.lockstep import Member, MemberAnswer, State, Work
from rattle.events import emit, of_lockstep
from rattle.wire.lockstep import MAX_BYTES, Codec, Role

__all__ = ["LockstepMember", "MemberAnswer", "MemberSettings", "Work"]

#: How long a goodbye may take, in seconds.
_GOODBYE_SECONDS = 1.0
#: How long after the service was heard, or after the last look-up, its name is looked up again, in seconds.
_LOOK_UP_SECONDS = 1.0


@dataclass(frozen=True)
class MemberSettings:
    """Where the Sync service is, and how to speak with it."""

    address: str  # HOST:PORT
    key: bytes | None = field(default=None, repr=False)
    loss: float = 0.0  # for tests: the fraction of datagrams that is not sent
    delay_seconds: float = 0.0  # for tests: datagrams and work are held up by a random time of up to this


class LockstepMember:
    """Takes part in a lockstep run: `work` is called with each piece of work, once, and `finish` says that it is done.

    `ended` is called with a reason when nothing more should be done here: the run is over, or this member is refused.
    All of it happens in one event loop, in its thread.
    """

    def __init__(
        self,
        settings: MemberSettings,
        name: str,
        role: Role,
        work: Callable[[Work], None],
        ended: Callable[[str], None],
    ) -> None:
        """Prepare; raises ClientError for an address that is none."""
        self._settings = settings
        self._work, self._ended = work, ended
        self._host, self._port = _parse(settings.address)
        self._member = Member(name, role, time.time_ns(), Codec(settings.key))
        self._random = Random()  # noqa: S311 - of faults, which guard nothing
        self._faults = DatagramFaults(settings.loss, settings.delay_seconds, self._random)
        self._socket: socket.socket | None = None
        self._service: tuple[Any, ...] = ()  # its address
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._held_up: asyncio.TimerHandle | None = None
        self._said: tuple[State, str] = ("new", "")
        self._gone: asyncio.Event | None = None
        self._looking_up: asyncio.Task[None] | None = None
        self._look_up_at = 0.0

    @property
    def state(self) -> State:
        """Return where the member stands with the service."""
        return self._member.state

    @property
    def tick(self) -> int:
        """Return the tick of the last work that was done, 0 before the first."""
        return self._member.done_tick

    def start(self) -> None:
        """Begin to join, in a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._socket, self._service = _open(self._host, self._port)
        self._loop.add_reader(self._socket, self._receive)
        self._go_on(self._member.begin(time.monotonic()))

    def finish(self, answer: MemberAnswer) -> None:
        """Say that the work in progress is done; may be called within `work`."""
        self._go_on(self._member.finish(answer, time.monotonic()))

    async def leave(self) -> None:
        """Say goodbye, and wait a little until that is heard."""
        if self._socket is None:
            return
        self._gone = asyncio.Event()
        if self._held_up is not None:
            self._held_up.cancel()
        self._go_on(self._member.leave(time.monotonic()))
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._gone.wait()
        self._close()

    def _receive(self) -> None:
        """Take what has come; what comes in answer is read at the next turn of the loop."""
        if self._socket is None:
            return
        try:
            data, sender = self._socket.recvfrom(MAX_BYTES + 1)
        except OSError:
            return
        if sender != self._service:
            return
        self._go_on(self._member.receive(data, time.monotonic()))

    def _wake(self) -> None:
        self._timer, self._timer_at = None, inf
        now = time.monotonic()
        if now >= max(self._look_up_at, self._member.heard_at + _LOOK_UP_SECONDS):
            self._look_up_at = inf
            self._looking_up = self._loop.create_task(self._look_up())
        self._go_on(self._member.wake(now) if now >= self._member.wake_at() else [])

    async def _look_up(self) -> None:
        """Ask where the service is by now: containers and pods that come back have other addresses than before."""
        with suppress(OSError):  # nobody knows the name while the service is down
            found = await asyncio.to_thread(socket.getaddrinfo, self._host, self._port, type=socket.SOCK_DGRAM)
            if self._socket is not None and self._service not in [address for *_, address in found]:
                self._loop.remove_reader(self._socket)
                self._socket.close()
                self._socket, self._service = _opened(found[0])
                self._loop.add_reader(self._socket, self._receive)
        self._look_up_at = time.monotonic() + _LOOK_UP_SECONDS

    def _go_on(self, datagrams: list[bytes]) -> None:
        """Send, begin what should be done, say what has changed, and set the timer."""
        self._send(datagrams)
        if (work := self._member.take_work()) is not None:
            self._begin(work)
        if (self._member.state, self._member.reason) != self._said:
            self._say()
        self._set_timer()

    def _send(self, datagrams: list[bytes]) -> None:
        if self._settings.loss or self._settings.delay_seconds:
            datagrams = [data for _, data in self._faults.take([(None, data) for data in datagrams], time.monotonic())]
        if self._socket is None:
            return
        for data in datagrams:
            with suppress(OSError):  # lost, as any datagram may be
                self._socket.sendto(data, self._service)

    def _begin(self, work: Work) -> None:
        if self._settings.delay_seconds:
            seconds = self._random.random() * self._settings.delay_seconds
            self._held_up = self._loop.call_later(seconds, self._work, work)
        else:
            self._work(work)

    def _say(self) -> None:
        """Tell people, and the owner at the end, what has happened to the membership."""
        state, reason = self._said = self._member.state, self._member.reason
        if state == "joining" and reason:
            emit(of_lockstep.JoiningAgain(address=str(self._settings.address), reason=reason))
        elif state == "ended":
            if self._gone is not None:
                self._gone.set()
            else:
                self._ended(reason)

    def _set_timer(self) -> None:
        """See to it that `_wake` is called in time; too early does no harm, and costs less than to move the timer."""
        at = min(self._member.wake_at(), self._faults.wake_at())
        if at >= self._timer_at or self._socket is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._wake)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._looking_up is not None:
            self._looking_up.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None


def _parse(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ClientError(f"sync.address: '{address}' is no address: write it as HOST:PORT")
    return host.strip("[]"), int(port)


def _open(host: str, port: int) -> tuple[socket.socket, tuple[Any, ...]]:
    """Return a socket and the address to speak with; raises ClientError for a host that is not known."""
    try:
        return _opened(socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0])
    except OSError as error:
        raise ClientError(f"cannot reach the Sync service at {host}:{port}: {error.strerror}") from None


def _opened(found: tuple[Any, ...]) -> tuple[socket.socket, tuple[Any, ...]]:
    """Return a socket for an answer of getaddrinfo, and the address in it.

    The socket is not connected: where nobody listens, a connected one has an error, and uvloop reads from it no more.
    """
    family, *_, address = found
    member = socket.socket(family, socket.SOCK_DGRAM)
    member.setblocking(False)
    return member, address
