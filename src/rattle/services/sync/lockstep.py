"""Mode `lockstep`: the coordinator's socket and timer in an event loop, its events in the log, its phases on disk."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from math import inf
from random import Random
from typing import Any

import msgspec
from prometheus_client import Metric

from rattle.clients.datagram_faults import DatagramFaults
from rattle.events import emit, of_lockstep
from rattle.services.sync.coordinator import Coordinator
from rattle.services.sync.history import LockstepHistory
from rattle.services.sync.metrics import families
from rattle.services.sync.participants import check_once
from rattle.services.sync.rate import Rate
from rattle.services.sync.round_trip_times import RoundTripTimes
from rattle.services.sync.seats import Address
from rattle.services.utils.sockets import ServiceError
from rattle.settings.services import SyncSection
from rattle.wire.lockstep import MAX_BYTES, Codec, Name
from rattle.wire.problems import RequestError

#: Where answers usually come this soon, the next is looked for so long before the process goes to sleep, in seconds:
#: to be woken up, on another core, takes as long as the rest of a round trip.
_SOON_SECONDS, _LOOKING_SECONDS = 0.0003, 0.0002
#: Datagrams after which the event loop has a turn in any case: it has the timers and the operators.
_DATAGRAMS_A_TURN = 32
#: So many samples of round trips are counted at a time.
_SAMPLES = 1000


class Lockstep:
    """Leads members through ticks, over the UDP socket that it is given.

    One event loop has all of it, and the answers to operators.
    """

    def __init__(
        self, settings: SyncSection, key: bytes | None, members: socket.socket, history: LockstepHistory | None
    ) -> None:
        _check_names(settings.participants)
        self.failure: ServiceError | None = None
        self._coordinator = Coordinator(settings, Codec(key, is_service=True), 1 + secrets.randbelow(2**63 - 1))
        self._socket = members
        self._history = history
        self._faults = DatagramFaults(settings.loss, settings.delay_seconds, Random())  # noqa: S311 - no secret
        self._rate = Rate()
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._round_trips = RoundTripTimes()

    def start(self) -> None:
        """Begin to wait for members, in a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._receive)
        now = time.monotonic()
        ticks = self._coordinator.settings.ticks
        # Killed after the last tick it would wait for ever for members that know that the run is over.
        is_over = self._history is not None and ticks is not None and self._history.is_complete(ticks)
        self._coordinator.begin(now, is_over=is_over)
        if is_over:
            emit(of_lockstep.HistoryComplete(ticks=ticks or 0))
        self._go_on([], now)

    def stop(self) -> None:
        """Stop, and say nothing: members wait until the service is started again."""
        self._loop.remove_reader(self._socket)
        if self._timer is not None:
            self._timer.cancel()

    def check_ready(self) -> None:
        """Raise RequestError unless all are there who are waited for."""
        if not self._coordinator.leader.finished and (missing := self._missing()):
            raise RequestError("not_ready", f"the run is not complete: waiting for {', '.join(missing)}")

    def status(self) -> dict[str, Any]:
        """Return what `GET /v1/status` shows."""
        now = time.monotonic()
        status = self._coordinator.status(now)
        status["ticks_per_second"] = round(self._rate.per_second(status["tick"], now), 1)
        status["datagrams"] |= {"unsent": self._unsent, "lost_on_purpose": self._faults.lost}
        return status

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers for Prometheus."""
        yield from families(self.status())
        self._count_round_trips()
        yield self._round_trips.family()

    def _missing(self) -> list[str]:
        """Return who is waited for."""
        status = self._coordinator.status(time.monotonic())
        if status["state"] == "gathering":
            return list(status["waiting_for"])
        silent = [member["name"] for member in status["members"] if member["state"] in ("suspected", "absent")]
        gone = status["wanted"] - len(status["members"])
        return silent + ([f"{gone} more"] if gone > 0 else [])

    def _receive(self) -> None:
        """Take a datagram, and others that come soon."""
        until = 0.0
        for _ in range(_DATAGRAMS_A_TURN):
            datagram = self._look(until)
            if datagram is None:
                return
            now = time.monotonic()
            self._go_on(self._coordinator.receive(*datagram, now), now)
            if self.failure is not None or not self._coordinator.leader.is_answered_within(_SOON_SECONDS):
                return
            until = now + _LOOKING_SECONDS

    def _look(self, until: float) -> tuple[bytes, Address] | None:
        """Return a datagram that is there at a time, None where none is."""
        while True:
            try:
                return self._socket.recvfrom(MAX_BYTES + 1)
            except (BlockingIOError, ConnectionError):
                if time.monotonic() >= until:
                    return None

    def _wake(self) -> None:
        self._timer, self._timer_at = None, inf
        now = time.monotonic()
        self._go_on(self._coordinator.wake(now), now)

    def _go_on(self, datagrams: list[tuple[Address, bytes]], now: float) -> None:
        """Store what is complete, and only then send what follows from it."""
        try:
            self._store(now)
        except ServiceError as error:
            self._fail(error)
            return
        for address, data in self._faults.take(datagrams, now):
            try:
                self._socket.sendto(data, address)
            except OSError:  # as good as lost: it is sent again
                self._unsent += 1
        self._set_timer(now)

    def _store(self, now: float) -> None:
        leader, events = self._coordinator.leader, self._coordinator.out.events
        if leader.phases:
            for phase in leader.phases:
                if self._history is not None:
                    self._history.write(phase.tick, phase.phase, phase.hashes)
            self._rate.note(leader.phases[-1].tick, now)
            leader.phases.clear()
        if len(leader.round_trips) >= _SAMPLES:
            self._count_round_trips()
        if events:
            for event in events:
                emit(event)
            events.clear()

    def _count_round_trips(self) -> None:
        samples = self._coordinator.leader.round_trips
        self._round_trips.add(samples)
        samples.clear()

    def _set_timer(self, now: float) -> None:
        """Wake up when the next is due; a timer that is too early is left as it is, and set again when it rings."""
        at = min(self._coordinator.wake_at(), self._faults.wake_at())
        if at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_at = self._loop.call_later(max(0.0, at - now), self._wake), at

    def _fail(self, error: ServiceError) -> None:
        """Lead no further, and have the process end with the reason."""
        self.failure = error
        self.stop()
        os.kill(os.getpid(), signal.SIGTERM)


def _check_names(names: tuple[str, ...]) -> None:
    """Raise ServiceError where something is no name that a member can have, or is there twice."""
    check_once(names)
    for name in names:
        try:
            msgspec.convert(name, Name)
        except msgspec.ValidationError:
            raise ServiceError(
                f"sync.participants: '{name}' is no name of a member, 1 to 64 letters, digits, dots, _ and -: "
                "HOST:PORT is of the mode pace"
            ) from None
