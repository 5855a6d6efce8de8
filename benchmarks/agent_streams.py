"""Streams of the agent API: how late lines are with a thousand snakes, each on a connection of its own."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import uvloop
from bare_streams import serve as serve_floor
from measure import report, table

HOST = "127.0.0.1"
LATE_SECONDS = 0.05
SIDE, FOOD = 128, 200


@dataclass
class Counts:
    """What the client saw."""

    late: list[float] = field(default_factory=list)  # seconds from the tick to the line's arrival
    lost: int = 0
    lives: int = 0
    moves: int = 0
    measuring: bool = False


class Snake(asyncio.Protocol):
    """One snake's connection: reads its stream, joins again after its death."""

    def __init__(self, name: str, counts: Counts) -> None:
        self._request = f"GET /snake/{name}?lines=all HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        self._counts = counts
        self._rest = b""
        self._tick = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join."""
        self._transport = transport
        self._join()

    def data_received(self, data: bytes) -> None:
        """Take the lines that have come."""
        now = time.time()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b'{"snake_id"'):
                self._take(line, now)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop: the server never closes a snake's connection."""
        if self._counts.measuring:
            sys.exit(f"a connection was lost: {exc}")

    def _join(self) -> None:
        self._tick = -1
        self._counts.lives += 1
        self._transport.write(self._request)

    def _take(self, line: bytes, now: float) -> None:
        tick = int(line[line.index(b'"tick":') + 7 : line.index(b',"visible')])
        ending = line[line.rindex(b'"reward"') :]
        sent = datetime.fromisoformat(ending[ending.index(b'"datetime":"') + 12 : ending.rindex(b'","length')].decode())
        if self._tick >= 0:
            self._counts.lost += tick - self._tick - 1
        first, self._tick = self._tick < 0, tick
        if self._counts.measuring and not first:
            self._counts.late.append(now - sent.timestamp())
        if b'"game_over":true' in ending:
            self._join()


async def post_moves(host: str, port: int, names: list[str], counts: Counts) -> None:
    """Have some snakes turn now and then, one request after another on one connection."""
    reader, writer = await asyncio.open_connection(host, port)
    rng = random.Random(1)  # noqa: S311
    while True:
        name = rng.choice(names)
        body = b'{"move":"%s"}' % rng.choice([b"left", b"right", b"forward"])
        head = f"POST /snake/{name}/move HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"}")
        if b" 200 " not in answer:
            sys.exit(f"a move was refused: {answer!r}")
        counts.moves += 1
        await asyncio.sleep(0.005)


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@dataclass
class ProcessorTime:
    """Seconds of processor time since the start of the machine and of the processes."""

    all_busy: float
    server: float
    client: float

    @classmethod
    def now(cls, server_pid: int) -> ProcessorTime:
        """Read the kernel's counters."""
        user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
        own = Path(f"/proc/{server_pid}/stat").read_text().rpartition(")")[2].split()
        second = os.sysconf("SC_CLK_TCK")
        busy = (user + nice + system + irq + softirq) / second
        return cls(busy, (int(own[11]) + int(own[12])) / second, time.process_time())

    def since(self, start: ProcessorTime, seconds: float) -> tuple[float, float, float]:
        """Return the cores that the server, the client and all other programs have kept busy."""
        server, client = self.server - start.server, self.client - start.client
        others = max(0.0, self.all_busy - start.all_busy - server - client)
        return server / seconds, client / seconds, others / seconds


@dataclass
class Measured:
    """What a play has come to."""

    counts: Counts
    memory: list[float]  # of the server, in MiB, once a second
    cores: tuple[float, float, float]  # kept busy by the server, the client and others


async def play(host: str, port: int, pid: int, snakes: int, seconds: float) -> Measured:
    """Play and measure."""
    counts, loop = Counts(), asyncio.get_running_loop()
    names = [f"snake-{number}" for number in range(snakes)]
    for name in names:
        await loop.create_connection(lambda name=name: Snake(name, counts), host, port)
    moving = asyncio.create_task(post_moves(host, port, names, counts))
    await asyncio.sleep(3)
    gc.collect()
    gc.freeze()
    gc.disable()  # the client must not be late itself
    memory = []
    start, began = ProcessorTime.now(pid), time.monotonic()
    counts.measuring = True
    for _ in range(round(seconds)):
        await asyncio.sleep(1)
        memory.append(resident_mib(pid))
    counts.measuring = False
    moving.cancel()
    return Measured(counts, memory, ProcessorTime.now(pid).since(start, time.monotonic() - began))


def serve(snakes: int) -> None:
    """Be the server."""
    from rattle.envs.snake.settings import SnakeSettings
    from rattle.services.env.agent_routes import AgentFace
    from rattle.services.utils.serving import serve as serve_http
    from rattle.services.utils.sockets import listen
    from rattle.settings.services import EnvServiceSection

    settings = EnvServiceSection(snakes=snakes)
    face = AgentFace(settings, SnakeSettings(width=SIDE, height=SIDE, food=FOOD), 1)
    serve_http(face, "agent API", listen(HOST, 0), settings.max_connections, {})


def main() -> None:
    """Start a server process and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--snakes", type=int, default=1000)
    parser.add_argument("--serve", choices=["floor", "service"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve == "service":
        return serve(arguments.snakes)
    if arguments.serve == "floor":
        return serve_floor(HOST)
    floor = measure("floor", arguments.snakes, max(1.0, arguments.seconds / 3))
    write_report(measure("service", arguments.snakes, arguments.seconds), floor, arguments.snakes, arguments.seconds)
    return None


def measure(what: str, snakes: int, seconds: float) -> Measured:
    """Start a server process and measure it."""
    command = [sys.executable, __file__, "--serve", what, "--snakes", str(snakes)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert server.stdout is not None  # noqa: S101
        port = int(json.loads(server.stdout.readline())["url"].rpartition(":")[2])
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(play(HOST, port, server.pid, snakes, seconds))
    finally:
        gc.enable()
        server.terminate()
        server.wait(20)


def write_report(service: Measured, floor: Measured, snakes: int, seconds: float) -> None:
    """Make the table."""
    rows = [
        (name, figure, beside) for (name, figure), (_, beside) in zip(figures(service), figures(floor), strict=True)
    ]
    report(
        "agent_streams",
        "Streams of the agent API",
        f"{snakes} snakes on a board of {SIDE} x {SIDE}, 10 ticks a second, one server process, for "
        f"{seconds:.0f} seconds. Each snake has a TCP connection of its own and joins again when it dies; "
        "one client process on the same machine reads them all. A line's lateness is from the `datetime` it "
        "carries, taken when its tick begins, to its arrival in the client. Floor: a server without games that "
        "writes a line of this length to every connection, measured for a third of the time just before.",
        table(("", "service", "floor"), rows),
    )


def figures(measured: Measured) -> list[tuple[str, str]]:
    """Return what was measured, named."""
    counts, memory, cores = measured.counts, measured.memory, measured.cores
    late = sorted(counts.late)
    in_time = sum(lateness <= LATE_SECONDS for lateness in late) / len(late)
    third = max(1, len(memory) // 3)
    return [
        ("lines", f"{len(late):,}"),
        (f"lines within {LATE_SECONDS * 1e3:.0f} ms of their tick", f"{in_time:.2%}"),
        ("late, median", f"{statistics.median(late) * 1e3:.1f} ms"),
        ("late, 99 %", f"{late[int(len(late) * 0.99)] * 1e3:.1f} ms"),
        ("late, most", f"{late[-1] * 1e3:.1f} ms"),
        ("lines lost", str(counts.lost)),
        ("lives", f"{counts.lives:,}"),
        ("moves posted", f"{counts.moves:,}"),
        ("cores kept busy by the server", f"{cores[0]:.2f}"),
        ("by the client", f"{cores[1]:.2f}"),
        ("by other programs", f"{cores[2]:.2f}"),
        ("server's memory, first third", f"{statistics.mean(memory[:third]):.1f} MiB"),
        ("server's memory, last third", f"{statistics.mean(memory[-third:]):.1f} MiB"),
    ]


if __name__ == "__main__":
    main()
