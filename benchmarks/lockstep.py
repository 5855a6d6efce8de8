"""Lockstep over loopback: ticks a second and the 99th percentile of a tick, by members and by loss."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from random import Random

from measure import report, table

from rattle.clients.datagram_faults import DatagramFaults
from rattle.wire.lockstep import Codec, Done, Join, Ping, Pong, Ready, Role, Tick, Welcome

MEMBERS, LOSSES = (1, 2, 4, 8, 16, 32), (0.0, 0.01, 0.05, 0.2)
SECONDS = 4.0
HASH = bytes(8)


class Member:
    """Answers at once; its answers are lost as often as what it is sent."""

    def __init__(self, port: int, name: str, role: Role, loss: float) -> None:
        self.ticks: list[float] = []  # when each began here
        self._name, self._role = name, role
        self._codec = Codec()
        self._faults = DatagramFaults(loss, 0.0, Random())  # noqa: S311
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(0.2)

    def take_part(self, seconds: float) -> None:
        """Join, and answer until so many seconds after the first tick."""
        newest, join = 0, Join(time.time_ns(), self._name, self._role, 0, 0, 0, 0, 0, False)
        self._send(join)
        while not self.ticks or self.ticks[-1] < self.ticks[0] + seconds:
            try:
                said = self._codec.decode(self._socket.recv(2048))
            except TimeoutError:
                if not newest:
                    self._send(join)
                continue
            if isinstance(said, Tick):
                if said.tick > newest:
                    newest = said.tick
                    self.ticks.append(time.monotonic())
                seat = said.session, said.epoch, said.seat
                self._send(Done(*seat, said.tick, said.phase, said.attempt, False, {self._name: HASH}))
            elif isinstance(said, Welcome):
                self._socket.settimeout(None)  # the service repeats what gets lost
                self._send(Ready(said.session, said.epoch, said.seat, said.attempt))
            elif isinstance(said, Ping):
                self._send(Pong(said.session, said.epoch, said.seat, said.attempt))

    def _send(self, datagram: Done | Join | Ready | Pong) -> None:
        for _, data in self._faults.take([(None, self._codec.encode(datagram))], time.monotonic()):
            self._socket.send(data)


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python process until the block ends."""
    started = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def lead(members: int, loss: float) -> tuple[float, float]:
    """Return ticks a second, and the 99th percentile of a tick in milliseconds."""
    arguments = ["--mode", "lockstep", "--members", str(members), "--port", "0", "--http-port", "0"]
    with ExitStack() as stack:
        sync = stack.enter_context(process("-P", "-m", "rattle.cli", "sync", *arguments, "--set", f"sync.loss={loss}"))
        assert sync.stdout is not None  # noqa: S101
        port = int(json.loads(sync.stdout.readline())["address"].rpartition(":")[2])
        for number in range(1, members):
            stack.enter_context(process(__file__, "member", str(port), f"agent-{number}", str(loss)))
        environment = Member(port, "env", Role.ENVIRONMENT, loss)
        environment.take_part(SECONDS)
        return figures(environment.ticks)


def figures(ticks: list[float]) -> tuple[float, float]:
    """Return ticks a second, and the 99th percentile of the time between two in milliseconds."""
    intervals = [later - earlier for earlier, later in pairwise(ticks)]
    return len(intervals) / (ticks[-1] - ticks[0]), 1000 * statistics.quantiles(intervals, n=100)[-1]


def floor(members: int) -> float:
    """Return rounds a second of the same datagrams without a protocol: to all agents and back, then to one more."""
    with ExitStack() as stack:
        asker = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        asker.bind(("127.0.0.1", 0))
        asker.settimeout(20)
        port, data = asker.getsockname()[1], bytes(40)
        for _ in range(members):
            stack.enter_context(process(__file__, "echo", str(port)))
        places = [asker.recvfrom(99)[1] for _ in range(members)]
        rounds, end = 0, time.monotonic() + SECONDS
        while time.monotonic() < end:
            for phase in (places[1:], places[:1]):
                for place in phase:
                    asker.sendto(data, place)
                for _ in phase:
                    asker.recvfrom(99)
            rounds += 1
        return rounds / SECONDS


def echo(port: int) -> None:
    """Send back what comes, for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.connect(("127.0.0.1", port))
        here.send(b"")
        while True:
            here.send(here.recv(99))


def main() -> None:
    """Measure and report."""
    if sys.argv[1:2] == ["member"]:
        port, name, loss = sys.argv[2:]
        Member(int(port), name, Role.AGENT, float(loss)).take_part(float("inf"))
    elif sys.argv[1:2] == ["echo"]:
        echo(int(sys.argv[2]))
    else:
        rows = []
        for members in MEMBERS:
            cells = [f"{rate:,.0f}; {tail:.1f} ms" for rate, tail in (lead(members, loss) for loss in LOSSES)]
            rows.append([str(members), *cells, f"{floor(members):,.0f}"])
        report(
            "lockstep",
            "Lockstep over loopback",
            "One environment, the others agents, a process each, which answer at once: ticks a second, and the 99th "
            f"percentile of the time from one tick to the next, over {SECONDS:.0f} seconds. Each datagram is lost with "
            "the given probability, in both directions. Beside it the floor: the same datagrams, sent and sent back "
            f"without a protocol. All of it on {os.cpu_count()} cores.",
            table(["members", *(f"{loss:.0%} loss" for loss in LOSSES), "floor"], rows),
        )


if __name__ == "__main__":
    main()
