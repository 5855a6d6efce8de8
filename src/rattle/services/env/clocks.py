"""What makes the agent API's world tick: time, the snakes' moves, or datagrams.

Each clock is logic without sockets and timers, given the time, and a thin shell that runs it in an event loop.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from rattle.events import Event, emit, of_lockstep, of_services
from rattle.services.env.datagrams import Datagrams, SealedDatagrams, UnsealedDatagrams
from rattle.services.env.game import Game
from rattle.services.utils.schedule import Schedule

#: So many datagrams in a row that do not repeat the nonce are more than those that were on their way.
_MOST_UNANSWERED = 20


class TickClock(Protocol):
    """Calls `tick` when it is time, from `start` to `stop`."""

    def start(self, tick: Callable[[], None]) -> None:
        """Begin, in a running event loop."""

    def changed(self) -> None:
        """Look at the game again: a snake has come, moved or gone."""

    async def stop(self) -> None:
        """End; no tick follows."""


class Turns:
    """A tick when all have moved, or `seconds` after the last one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: float | None = None

    def begin(self, now: float) -> None:
        """Have the first tick `seconds` from now at the latest."""
        self._last = now

    ticked = begin

    def end(self) -> None:
        """Have no more ticks until it begins again."""
        self._last = None

    @property
    def running(self) -> bool:
        """Say whether ticks are to come."""
        return self._last is not None

    def wait(self, now: float, all_moved: bool) -> float:
        """Return the seconds until the next tick; 0 when it is due, infinity when none is to come."""
        if self._last is None:
            return math.inf
        return 0.0 if all_moved else max(0.0, self._last + self._seconds - now)


class _Timer:
    """One call to come; a new one takes the place of the last."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._handle: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Call in so many seconds; infinity: not at all."""
        self.cancel()
        if seconds != math.inf:
            self._handle = asyncio.get_running_loop().call_later(seconds, self._call)

    def cancel(self) -> None:
        """Do not call."""
        if self._handle is not None:
            self._handle.cancel()


class RealtimeClock:
    """Ticks `fps` times a second while anybody lives."""

    def __init__(self, game: Game, fps: float) -> None:
        self._game = game
        self._schedule = Schedule(fps)
        self._timer = _Timer(self._due)
        self._tick: Callable[[], None] | None = None

    def start(self, tick: Callable[[], None]) -> None:
        """Begin, in a running event loop."""
        self._tick = tick

    def changed(self) -> None:
        """Begin when the first snake has come, end when the last has left."""
        if self._tick is not None and self._game.in_progress != self._schedule.running:
            now = time.monotonic()
            if self._game.in_progress:
                self._schedule.begin(now)
            else:
                self._schedule.end()
            self._timer.set(self._schedule.wait(now))

    async def stop(self) -> None:
        """End; no tick follows."""
        self._tick = None
        self._timer.cancel()

    def _due(self) -> None:
        now = time.monotonic()
        if self._tick is not None and self._schedule.wait(now) == 0.0:
            self._schedule.ticked(now)
            self._tick()
            self.changed()
        if self._tick is not None:
            self._timer.set(self._schedule.wait(time.monotonic()))


class TurnsClock:
    """Ticks when all that are read have moved, or after `seconds`."""

    def __init__(self, game: Game, seconds: float) -> None:
        self._game = game
        self._turns = Turns(seconds)
        self._timer = _Timer(self._due)
        self._tick: Callable[[], None] | None = None

    def start(self, tick: Callable[[], None]) -> None:
        """Begin, in a running event loop."""
        self._tick = tick

    def changed(self) -> None:
        """Look whether all have moved."""
        if self._tick is None:
            return
        now = time.monotonic()
        if not self._game.in_progress:
            self._turns.end()
        elif not self._turns.running:
            self._turns.begin(now)
        self._timer.set(self._turns.wait(now, self._game.all_moved))

    async def stop(self) -> None:
        """End; no tick follows."""
        self._tick = None
        self._timer.cancel()

    def _due(self) -> None:
        now = time.monotonic()
        if self._tick is not None and self._turns.wait(now, self._game.all_moved) == 0.0:
            self._turns.ticked(now)
            self._tick()
        self.changed()


class SyncClock:
    """Ticks for every datagram that says so; owns the UDP socket that it is given."""

    def __init__(self, listener: socket.socket, key: bytes | None = None) -> None:
        """Listen; with a key to nothing that is not sealed with it."""
        self.datagrams: Datagrams = UnsealedDatagrams() if key is None else SealedDatagrams(key, secrets.token_hex(8))
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._tick: Callable[[], None] | None = None
        self._said: set[type[Event]] = set()

    def start(self, tick: Callable[[], None]) -> None:
        """Begin, in a running event loop."""
        self._tick = tick
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._receive)

    def changed(self) -> None:
        """Nothing in the game moves this clock."""

    async def stop(self) -> None:
        """End; no tick follows, and the port is free again."""
        self._tick = None
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()

    def _receive(self) -> None:
        """Take one datagram: the loop comes back for the next, and lets the streams have their turn in between."""
        try:
            data, sender = self._listener.recvfrom(2048)
        except (BlockingIOError, ConnectionError):
            return
        if self._tick is None:
            return
        is_tick = self.datagrams.is_tick(data, time.monotonic())
        if self.datagrams.question is not None:
            with suppress(OSError):  # lost, as any datagram may be: the next beat is asked again
                self._listener.sendto(self.datagrams.question, sender)
        self._warn()
        if is_tick:
            self._tick()

    def _warn(self) -> None:
        """Say each thing that people should know once, however many datagrams show it."""
        datagrams = self.datagrams
        for event, is_so in (
            (of_services.SyncClockBack, datagrams.replaced > 0),
            (of_lockstep.BadSeals, datagrams.refused > 0),
            (of_services.NonceNotRepeated, datagrams.unanswered >= _MOST_UNANSWERED),
        ):
            if is_so and event not in self._said:
                self._said.add(event)
                emit(event())
