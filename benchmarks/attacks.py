"""How soon services answer whether they live while somebody attacks them, and what memory the attack takes.

Services have no token here: with one, most of these requests end at the door. Attackers and services share the cores.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from measure import report, table
from serving import policy

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the tests' HTTP/2
from tests.services.raw_http2 import raw_connection  # noqa: E402

from rattle.policies.file import dump_policy  # noqa: E402

SECONDS, CALM_SECONDS = 6.0, 5.0
PAUSE = 0.02  # between questions whether a service lives

Attack = Callable[[str], None]


class Service(NamedTuple):
    """A running service."""

    pid: int
    hello: dict[str, str]


def connect(address: str) -> socket.socket:
    """Connect to HOST:PORT, or to a URL."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def unfinished_bodies(address: str, path: str) -> None:
    """Send sixty bodies of 15.9 MB, but for the last byte."""
    length = 15_900_000
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
    kept = []
    for _ in range(60):
        with suppress(OSError):  # refused, and closed
            one = connect(address)
            kept.append(one)
            one.sendall(head.encode())
            one.sendall(bytes(length - 1))
    time.sleep(SECONDS)


def idle_connections(address: str) -> None:
    """Open two thousand connections, and say nothing."""
    kept = [connect(address) for _ in range(2000)]
    time.sleep(SECONDS)
    del kept


def slow_clients(address: str) -> None:
    """Send requests a byte at a time, over three hundred connections."""
    kept = [connect(address) for _ in range(300)]
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 1000
    ends = time.monotonic() + SECONDS
    for byte in request:
        for one in kept:
            with suppress(OSError):
                one.send(bytes((byte,)))
        time.sleep(1)
        if time.monotonic() > ends:
            return


def bombs(address: str, path: str) -> None:
    """Send a request of 15 kB again and again that would be 16 MB of JSON."""
    wide = b'{"inputs":[{"name":"observation","datatype":"UINT8","shape":[1,60],"data":['
    body = gzip.compress(wide + b"[0]," * 3_900_000 + b"[0]]}]}", 9)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        with suppress(OSError), connect(address) as one:
            one.sendall(request)
            one.recv(2**16)


def rapid_resets(address: str, path: str) -> None:
    """Begin calls and give them up at once."""
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        with suppress(OSError), raw_connection(address) as connection:
            while time.monotonic() < ends and not connection.told_to_go:
                for _ in range(200):
                    connection.reset(connection.begin(path))
                connection.read()


def unfinished_calls(address: str, path: str) -> None:
    """Begin a thousand calls, and send half of a message with each."""
    with raw_connection(address) as connection:
        for _ in range(1000):
            connection.send(connection.begin(path), 2**24, 2**16, 0.005)
        time.sleep(SECONDS)


def asks_http(address: str) -> Callable[[], None]:
    """Return a question over a new connection."""

    def ask() -> None:
        with connect(address) as one:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if b" 200 " not in one.recv(2**12)[:16]:
                raise ConnectionError

    return ask


def asks_grpc(address: str) -> Callable[[], None]:
    """Return a question over one channel."""
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(address))

    def ask() -> None:
        stub.Check(health_pb2.HealthCheckRequest(), timeout=30)

    return ask


def attacked(name: str, service: Service, ask: Callable[[], None], attack: Callable[[], None]) -> tuple[str, ...]:
    """Attack a service, and return a line of the table."""
    process = psutil.Process(service.pid)
    before = most = process.memory_info().rss
    attacker = multiprocessing.get_context("fork").Process(target=attack)
    attacker.start()
    taken, failed = list[float](), 0
    while attacker.is_alive():
        began = time.perf_counter()
        try:
            ask()
        except (OSError, grpc.RpcError):
            failed += 1
        taken.append(time.perf_counter() - began)
        most = max(most, process.memory_info().rss)
        time.sleep(PAUSE)
    time.sleep(CALM_SECONDS)
    after = process.memory_info().rss
    late = statistics.quantiles(taken, n=100)[98]
    times = (f"{seconds * 1e3:.0f} ms" for seconds in (statistics.median(taken), late, max(taken)))
    return (name, *times, f"{failed} of {len(taken)}", *(f"{size / 2**20:.0f} MiB" for size in (before, most, after)))


@contextmanager
def running(*command: str) -> Iterator[Service]:
    """Run a service."""
    arguments = [sys.executable, "-P", "-m", "rattle.cli", *command]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # noqa: S603
    try:
        if process.stdout is None:
            raise SystemExit("the service prints nothing")
        yield Service(process.pid, json.loads(process.stdout.readline()))
    finally:
        process.terminate()
        process.communicate()


def over_http(name: str, service: Service, path: str) -> Iterator[tuple[str, ...]]:
    """Yield the lines of a service of HTTP."""
    url = service.hello["url"]
    attacks: dict[str, Callable[[], None]] = {
        "60 bodies of 15.9 MB that lack a byte": lambda: unfinished_bodies(url, path),
        "2,000 idle connections": lambda: idle_connections(url),
        "300 clients, a byte a second": lambda: slow_clients(url),
        "JSON of 16 MB in 15 kB, one after the other": lambda: bombs(url, path),
    }
    for what, attack in attacks.items():
        yield attacked(f"{name}: {what}", service, asks_http(url), attack)


def over_grpc(name: str, service: Service, address: str, path: str) -> Iterator[tuple[str, ...]]:
    """Yield the lines of a service of gRPC."""
    attacks: dict[str, Callable[[], None]] = {
        "calls that are reset at once": lambda: rapid_resets(address, path),
        "1,000 calls with half of a message": lambda: unfinished_calls(address, path),
    }
    for what, attack in attacks.items():
        yield attacked(f"{name}: {what}", service, asks_grpc(address), attack)


def main() -> None:
    """Attack all, and write the table."""
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snake.safetensors"
        path.write_bytes(dump_policy(policy()))
        with running("env", "--port", "0") as env:
            rows += over_http("Env", env, "/v1/sessions")
        with running("inference", "--policy", str(path), "--port", "0", "--grpc-port", "0") as inference:
            rows += over_http("Inference", inference, "/v2/models/snake/infer")
            called = "/inference.GRPCInferenceService/ModelInfer"
            rows += over_grpc("Inference", inference, inference.hello["grpc"], called)
        with running("training", "--port", "0", "--run-dir", f"{folder}/run") as training:
            address = training.hello["address"]
            rows += over_grpc("Training", training, address, "/rattle.v1.Training/UpdatePolicy")
    report(
        "attacks",
        "Services under attack",
        f"Health is asked every {PAUSE * 1e3:.0f} ms while an attack goes on; over HTTP on new connections. "
        f"Memory is what the process holds before, at most, and {CALM_SECONDS:.0f} s after.",
        table(("", "health: median", "99 %", "worst", "without answer", "before", "most", "after"), rows),
    )


if __name__ == "__main__":
    main()
