"""Requests and rows a second of `rattle inference`, beside bare endpoints on the same server software.

Client and servers share the machine's cores. The clients are plain sockets (load_clients.py), so that they are not what
is measured; rows of 1,024 over gRPC, and the public client package, go through the usual ones.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.http
from bare_serving import METHOD
from load_clients import Client, GrpcClient, HttpClient, latencies
from measure import report, table
from tritonclient.grpc import service_pb2

from rattle.policies.file import StoredPolicy, dump_policy
from rattle.policies.kinds import kind_of
from rattle.policies.mlp.spec import MlpSpec
from rattle.samples.spaces import CodeSpace
from rattle.settings.policy import PolicySection

SECONDS = 1.5  # a measurement
REPEATS = 7
INFER = "/inference.GRPCInferenceService/ModelInfer"
CELLS = 60  # that a snake sees by default

#: The answers' seconds of one measurement.
Measure = Callable[[], list[float]]


class Way(NamedTuple):
    """A way to ask, and the floor beside it."""

    name: str
    rows: int
    clients: int
    served: Measure
    bare: Measure


def policy() -> StoredPolicy:
    """Return the default policy, with random weights."""
    default = PolicySection()
    spec = MlpSpec(
        observation=CodeSpace(cells=CELLS, codes=5),
        num_actions=3,
        hidden_sizes=default.hidden_sizes,
        activation=default.activation,
        value_head=True,
    )
    draw = np.random.default_rng(0)
    weights = {
        name: (draw.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in kind_of(spec).parameter_shapes(spec).items()
    }
    return StoredPolicy(spec, weights, 1, "snake", {})


def observations(rows: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return boards on which something is in every tenth cell."""
    draw = np.random.default_rng(rows)
    return ((draw.random((rows, CELLS)) < 0.1) * draw.integers(1, 5, (rows, CELLS))).astype(np.uint8)


def http_request(rows: int) -> tuple[bytes, list[tuple[str, str]]]:
    """Return what the public client sends, with its header."""
    body, length = tritonclient.http.InferenceServerClient.generate_request_body([_input(tritonclient.http, rows)])
    return body, [("inference-header-content-length", str(length))]


def grpc_request(rows: int) -> service_pb2.ModelInferRequest:
    """Return what the public client sends."""
    asked = service_pb2.ModelInferRequest(model_name="snake")
    asked.inputs.add(name="observation", datatype="UINT8", shape=[rows, CELLS])
    asked.raw_input_contents.append(observations(rows).tobytes())
    return asked


def _input(package: Any, rows: int) -> Any:
    tensor = package.InferInput("observation", [rows, CELLS], "UINT8")
    tensor.set_data_from_numpy(observations(rows))
    return tensor


def load(make: Callable[[], Client], clients: int) -> Measure:
    """Return a measurement of some clients at once."""
    return lambda: latencies([make() for _ in range(clients)], SECONDS)


def one_by_one(call: Callable[[], object]) -> Measure:
    """Return a measurement of a call after the other."""

    def measure() -> list[float]:
        taken, began = [], time.perf_counter()
        while (start := time.perf_counter()) - began < SECONDS:
            call()
            taken.append(time.perf_counter() - start)
        return taken

    return measure


def ways(served: dict[str, Any], bare: dict[str, int]) -> Iterator[Way]:
    """Yield every way to ask."""
    http, rpc = int(served["url"].rpartition(":")[2]), int(served["grpc"].rpartition(":")[2])
    path = "/v2/models/snake/infer"
    few, few_headers = http_request(1)
    many, many_headers = http_request(1024)
    for clients in (1, 64):
        yield Way(
            "HTTP",
            1,
            clients,
            load(lambda: HttpClient(http, path, few, few_headers), clients),
            load(lambda: HttpClient(bare["http"], "/", observations(1).tobytes()), clients),
        )
        yield Way(
            "gRPC",
            1,
            clients,
            load(lambda: GrpcClient(rpc, INFER, grpc_request(1).SerializeToString()), clients),
            load(lambda: GrpcClient(bare["grpc"], METHOD, observations(1).tobytes()), clients),
        )
    for clients in (1, 4):
        yield Way(
            "HTTP",
            1024,
            clients,
            load(lambda: HttpClient(http, path, many, many_headers), clients),
            load(lambda: HttpClient(bare["http"], "/", observations(1024).tobytes()), clients),
        )
    channel, floor = (grpc.insecure_channel(f"127.0.0.1:{port}") for port in (rpc, bare["grpc"]))
    message, content = grpc_request(1024).SerializeToString(), observations(1024).tobytes()
    yield Way(
        "gRPC, grpcio's client",
        1024,
        1,
        one_by_one(lambda: channel.unary_unary(INFER)(message)),
        one_by_one(lambda: floor.unary_unary(METHOD)(content)),
    )
    one = observations(1).tobytes()
    over_http = tritonclient.http.InferenceServerClient(f"127.0.0.1:{http}")
    over_grpc = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{rpc}")
    yield Way(
        "HTTP, tritonclient",
        1,
        1,
        one_by_one(lambda: over_http.infer("snake", [_input(tritonclient.http, 1)])),
        load(lambda: HttpClient(bare["http"], "/", one), 1),
    )
    yield Way(
        "gRPC, tritonclient",
        1,
        1,
        one_by_one(lambda: over_grpc.infer("snake", [_input(tritonclient.grpc, 1)])),
        one_by_one(lambda: floor.unary_unary(METHOD)(one)),
    )


@contextmanager
def process(*command: str) -> Iterator[dict[str, Any]]:
    """Run a server and yield its first line."""
    running = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert running.stdout is not None  # noqa: S101
        yield json.loads(running.stdout.readline())
    finally:
        running.terminate()
        running.communicate()


def row(way: Way, served: list[list[float]], bare: list[list[float]]) -> tuple[str, ...]:
    """Return a line of the table: medians over the measurements."""
    speeds = [len(taken) / SECONDS for taken in served]
    floor = statistics.median(len(taken) / SECONDS for taken in bare)
    median = statistics.median(statistics.median(taken) for taken in served)
    late = statistics.median(statistics.quantiles(taken, n=100)[98] for taken in served)
    speed = statistics.median(speeds)
    return (
        f"{way.name}, {way.rows:,} row{'s' * (way.rows > 1)}, {way.clients} at a time",
        f"{median * 1e3:.2f} ms",
        f"{late * 1e3:.2f} ms",
        f"{speed:,.0f}",
        f"{max(speeds):,.0f}",
        f"{speed * way.rows:,.0f}",
        f"{floor:,.0f}",
        f"{speed / floor:.2f}",
    )


def main() -> None:
    """Measure every way and its floor, all taking turns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snake.safetensors"
        path.write_bytes(dump_policy(policy()))
        serve = ("-P", "-m", "rattle.cli", "inference", "--policy", str(path), "--port", "0", "--grpc-port", "0")
        with process(*serve) as served, process(str(Path(__file__).with_name("bare_serving.py")), str(path)) as bare:
            asked = list(ways(served, bare))
            taken: dict[tuple[int, bool], list[list[float]]] = {}
            for _ in range(REPEATS):
                for number, way in enumerate(asked):
                    taken.setdefault((number, False), []).append(way.served())
                    taken.setdefault((number, True), []).append(way.bare())
    report(
        "serving",
        "Serving policies on loopback",
        "The default policy (60 cells, two layers of 64), client and servers on the same cores; a client asks "
        f"again when it has its answer. {REPEATS} measurements of {SECONDS:.1f} s, all ways taking turns; figures "
        "are medians over them, best is the best measurement. Clients are plain sockets in one thread where no "
        "other is named: the usual ones in Python cost more than the server. Floors: a bare endpoint on the same "
        "server software (uvicorn with httptools, grpc.aio, both on uvloop) that computes the forward pass of the"
        " bytes that it is sent and answers with bytes of actions: no names, no checks, no joining; in the same "
        "transport, with as many clients. A client package is held against a floor that is asked without it.",
        table(
            ("", "median", "99 %", "requests/s", "best", "rows/s", "floor: requests/s", "of the floor"),
            [row(way, taken[number, False], taken[number, True]) for number, way in enumerate(asked)],
        ),
    )


if __name__ == "__main__":
    main()
