"""A real `rattle sync`, and members that speak its protocol without Rattle's own member."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rattle.wire.lockstep import (
    Bye,
    Codec,
    Datagram,
    Done,
    Gathering,
    Join,
    Phase,
    Ping,
    Pong,
    Ready,
    Role,
    SeatRefused,
    Tick,
    Unknown,
    Welcome,
)
from tests.processes import ServiceProcess

PATIENCE = 60.0  # seconds that something may take on a busy machine


class SyncProcess(ServiceProcess):
    """The service, and ways to ask it over HTTP; it comes back at the same UDP port."""

    def __init__(self, *arguments: str, settings: tuple[str, ...] = ()) -> None:
        super().__init__("sync", "--http-port", "0", *arguments, settings=settings)

    @property
    def udp(self) -> tuple[str, int]:
        host, _, port = self.hello["address"].rpartition(":")
        return host, int(port)

    def start(self) -> None:
        super().start()
        self._port = self.udp[1]

    def ask(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=PATIENCE)
        try:
            connection.request(method, path, headers={"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        code, body = self.ask("/v1/status")
        assert code == 200, body
        status: dict[str, Any] = json.loads(body)
        return status

    def number(self, metric: str) -> float:
        """Return what /metrics says; `metric` with its labels."""
        for line in self.ask("/metrics")[1].decode().splitlines():
            if line.startswith(f"{metric} "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no metric {metric}")


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


class BareMember:
    """Does its work at once, in a thread; remembers what it did, as a member does whose service starts anew."""

    def __init__(self, address: tuple[str, int], name: str, role: Role, key: bytes | None = None) -> None:
        self.name, self.role = name, role
        self.did: list[tuple[int, int]] = []  # ticks and phases, each time that it did one
        self.epochs: list[int] = []
        self.session = 0
        self.over = self.refused = ""
        self._codec = Codec(key)
        self._life = time.time_ns()
        self._seat: tuple[int, int, int] | None = None  # session, epoch, seat
        self._flags = self._nonce = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(address)
        self._socket.settimeout(0.1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Fall silent."""
        self._stopping.set()
        self._thread.join(PATIENCE)
        self._socket.close()

    def _run(self) -> None:
        heard = time.monotonic()
        self._join()
        while not (self._stopping.is_set() or self.over or self.refused):
            try:
                data = self._socket.recv(2048)
            except (TimeoutError, ConnectionRefusedError):
                self._stopping.wait(0.02)
                if self._seat is None or time.monotonic() > heard + 0.5:
                    self._join()
                continue
            heard = time.monotonic()
            datagram = self._codec.decode(data)
            if datagram is not None:
                self._take(datagram)

    def _take(self, datagram: Datagram) -> None:
        match datagram:
            case Welcome() if datagram.life == self._life:
                self._seat = datagram.session, datagram.epoch, datagram.seat
                self.session = datagram.session
                self.epochs += [datagram.epoch] if datagram.epoch not in self.epochs else []
                self._send(Ready(*self._seat, datagram.attempt))
            case SeatRefused():
                self.refused = datagram.reason
            case Gathering():
                if datagram.nonce != self._nonce:
                    self._nonce = datagram.nonce
                    self._join()
            case Tick() | Ping() | Unknown() | Bye() if self._seat == (datagram.session, datagram.epoch, datagram.seat):
                self._take_own(datagram)
            case _:
                pass  # of an earlier life of the service

    def _take_own(self, datagram: Tick | Ping | Unknown | Bye) -> None:
        assert self._seat is not None
        match datagram:
            case Tick():
                self._do(datagram)
            case Ping():
                self._send(Pong(*self._seat, datagram.attempt))
            case Unknown():
                self._seat = None
                self._join()
            case Bye():
                self._send(Bye(*self._seat, ""))
                self.over = datagram.reason

    def _do(self, tick: Tick) -> None:
        work = tick.tick, int(tick.phase)
        if not self.did or work > self.did[-1]:
            self.did.append(work)
            self._flags = tick.flags
        if work == self.did[-1] and self._seat is not None:
            self._send(Done(*self._seat, *work_of(work), tick.attempt, False, {self.name: history(self.name, *work)}))

    def _join(self) -> None:
        session, epoch, _ = self._seat or (self.session, max(self.epochs, default=0), 0)
        tick, phase = self.did[-1] if self.did else (0, 0)
        self._send(
            Join(self._life, self.name, self.role, session, epoch, tick, phase, self._flags, False, False, self._nonce)
        )

    def _send(self, datagram: Datagram) -> None:
        with suppress(ConnectionRefusedError):  # the service is away
            self._socket.send(self._codec.encode(datagram))


def work_of(work: tuple[int, int]) -> tuple[int, Phase]:
    return work[0], Phase(work[1])


def history(name: str, tick: int, phase: int) -> bytes:
    """Return what a member says of itself, as of the end of the last complete tick."""
    return (tick - (1 if phase == Phase.ACT else 0)).to_bytes(7) + name.encode()[-1:]


@contextmanager
def members(sync: SyncProcess, count: int, key: bytes | None = None) -> Iterator[list[BareMember]]:
    """Have an environment and agents take part until the block ends."""
    roles = [Role.ENVIRONMENT] + [Role.AGENT] * (count - 1)
    made = [BareMember(sync.udp, f"m{number}", role, key) for number, role in enumerate(roles)]
    try:
        yield made
    finally:
        for one in made:
            one.stop()


def lines_of(path: Path) -> list[tuple[int, str]]:
    """Return tick and phase of each line of a history file."""
    return [(line["tick"], line["phase"]) for line in map(json.loads, path.read_text().splitlines())]
