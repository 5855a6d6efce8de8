"""What security costs: a token, TLS and checksums, beside services that have none, all taking turns.

Clients and servers share the machine's cores.
"""

from __future__ import annotations

import secrets
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from load_clients import GrpcClient, HttpClient
from measure import median_seconds, report, table
from serving import INFER, grpc_request, http_request, load, policy, process
from vector_api import round_trip, server

from learning import EXPERIMENTS, rattle
from rattle.certificates import make_set
from rattle.clients.remote_worlds import RemoteWorlds
from rattle.policies.file import dump_policy
from rattle.tls import TlsFiles, keep_tls
from rattle.tokens import keep_token

WORLDS, CLIENTS = 1024, 64
REPEATS = 9
UP_PAIRS, UP_STEPS = 4, 6_000_000
PLAIN, TOKEN, TLS = "neither", "token", "token and TLS"

Figures = dict[str, list[float]]


def settings_of(folder: Path) -> dict[str, tuple[str, ...]]:
    """Make a token and certificates; return the settings of services for each way, and have clients know them."""
    token = folder / "token"
    token.touch(0o600)
    token.write_text(secrets.token_urlsafe(32))
    keep_token(token.read_text())
    authority, certificate, key = make_set(folder / "tls", [])
    keep_tls(TlsFiles(str(authority)))
    with_token = {"security.token_file": token}
    with_tls = {**with_token, "security.certificate": certificate, "security.private_key": key}
    with_tls["security.authority"] = authority
    ways: dict[str, dict[str, Path]] = {PLAIN: {}, TOKEN: with_token, TLS: with_tls}
    return {
        name: tuple(p for pair in of.items() for p in ("--set", "{}={}".format(*pair))) for name, of in ways.items()
    }


def steps(settings: dict[str, tuple[str, ...]]) -> Figures:
    """Return the seconds of a step of some worlds over WebSocket."""
    figures: Figures = {name: [] for name in settings}
    with ExitStack() as stack:
        works: dict[str, Callable[..., object]] = {}
        for name, of in settings.items():
            url = stack.enter_context(server("-P", "-m", "rattle.cli", "env", "--port", "0", *of))
            works[name] = RemoteWorlds(url, WORLDS, 1).step
        for _ in range(REPEATS):
            for name, work in works.items():
                figures[name].append(round_trip(work, WORLDS))
    return figures


def served(settings: dict[str, tuple[str, ...]], folder: Path) -> Iterator[tuple[str, Figures]]:
    """Yield the seconds for a request of one row over HTTP, then over gRPC, with many clients at a time."""
    path = folder / "snake.safetensors"
    path.write_bytes(dump_policy(policy()))
    serve = ("-P", "-m", "rattle.cli", "inference", "--policy", str(path), "--port", "0", "--grpc-port", "0")
    body, headers = http_request(1)
    message = grpc_request(1).SerializeToString()
    authorization = [("authorization", f"Bearer {(folder / 'token').read_text()}")]
    http: Figures = {PLAIN: [], TOKEN: []}
    rpc: Figures = {PLAIN: [], TOKEN: []}
    with ExitStack() as stack:
        hellos = {name: stack.enter_context(process(*serve, *settings[name])) for name in http}

        def seconds(make: Callable[[], Any]) -> float:
            taken = load(make, CLIENTS)()
            return statistics.fmean(taken) / CLIENTS

        for _ in range(REPEATS):
            for name, hello in hellos.items():
                more = authorization if name == TOKEN else []
                ports = (int(hello[key].rpartition(":")[2]) for key in ("url", "grpc"))
                port, rpc_port = ports
                path_of = "/v2/models/snake/infer"
                http[name].append(seconds(lambda: HttpClient(port, path_of, body, [*headers, *more])))  # noqa: B023
                rpc[name].append(seconds(lambda: GrpcClient(rpc_port, INFER, message, more)))  # noqa: B023
    yield f"request over HTTP, {CLIENTS} at a time", http
    yield f"request over gRPC, {CLIENTS} at a time", rpc


def up(settings: dict[str, tuple[str, ...]]) -> Figures:
    """Return the seconds of an environment step of `rattle up`, which always has a token, without TLS and with it."""
    figures: Figures = {TOKEN: [], TLS: []}
    for seed in range(UP_PAIRS):
        for name in (TOKEN, TLS) if seed % 2 == 0 else (TLS, TOKEN):
            with tempfile.TemporaryDirectory() as folder:
                limits = ("--steps", str(UP_STEPS), "--seed", str(seed), "--run-dir", f"{folder}/run")
                done = rattle("up", str(EXPERIMENTS / "snake.yaml"), *limits, *settings[name])
            figures[name].append(1 / float(done["env_steps_per_second"]))
    return figures


def rows(what: str, figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    """Yield lines of the table: medians, and the median ratio to the first way of the same turn."""
    first = next(iter(figures.values()))
    for name, seconds in figures.items():
        ratio = statistics.median(one / other for one, other in zip(seconds, first, strict=True))
        yield what, name, f"{statistics.median(seconds) * 1e6:,.2f} µs", f"{ratio - 1:+.1%}"


def checksum() -> str:
    """Return how long a checksum of a step's answer takes."""
    answer = np.random.default_rng(0).integers(0, 5, WORLDS * 68, np.uint8).tobytes()
    seconds = median_seconds(lambda: [google_crc32c.value(answer) for _ in range(1000)], 20) / 1000
    return f"The CRC-32C of {len(answer):,} bytes, the answer to a step of them, takes {seconds * 1e6:.1f} µs."


def main() -> None:
    """Measure all, and write the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = settings_of(folder)
        found = [(f"step of {WORLDS:,} worlds", steps(settings)), *served(settings, folder)]
        found.append(("step of `rattle up`, a world", up(settings)))
    report(
        "security",
        "What security costs",
        f"Medians of {REPEATS} measurements, of {UP_PAIRS} runs of {UP_STEPS:,} steps of `rattle up`, in turns. "
        "The last column is the median of the ratios to the first way in the same turn. A token is checked once "
        f"for a WebSocket or a stream, and with every other request. {checksum()}",
        table(("", "services have", "median", "more"), [row for what, of in found for row in rows(what, of)]),
    )


if __name__ == "__main__":
    main()
