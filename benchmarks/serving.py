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
from itertools import count
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
from rattle.policies.recurrent.spec import RecurrentSpec
from rattle.policies.spec import PolicySpec
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


def default_spec() -> MlpSpec:
    """Return what the default policy is."""
    default = PolicySection()
    return MlpSpec(
        observation=CodeSpace(cells=CELLS, codes=5),
        num_actions=3,
        hidden_sizes=default.hidden_sizes,
        activation=default.activation,
        value_head=True,
    )


def remembering_spec() -> RecurrentSpec:
    """Return the same with memory: a layer of minGRU on a hidden one."""
    return RecurrentSpec(
        network="mingru",
        observation=CodeSpace(cells=CELLS, codes=5),
        num_actions=3,
        hidden_sizes=(64,),
        memory_layers=1,
        activation="relu",
        value_head=True,
    )


def policy(spec: PolicySpec | None = None) -> StoredPolicy:
    """Return a policy with random weights, by default of the default form."""
    spec = spec or default_spec()
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


def http_request(rows: int, state: int = 0, **sequence: Any) -> tuple[bytes, list[tuple[str, str]]]:
    """Return what the public client sends, with its header: with memories of so many numbers, or as of a sequence."""
    inputs, outputs = [_input(tritonclient.http, rows)], None
    if state:
        inputs.append(tritonclient.http.InferInput("state", [rows, state], "FP32"))
        inputs[-1].set_data_from_numpy(np.zeros((rows, state), np.float32))
        outputs = [tritonclient.http.InferRequestedOutput(name) for name in ("action", "next_state")]
    body, length = tritonclient.http.InferenceServerClient.generate_request_body(inputs, outputs, **sequence)
    return body, [("inference-header-content-length", str(length))]


def grpc_request(rows: int, state: int = 0, of: int = 0, *, start: bool = False) -> service_pb2.ModelInferRequest:
    """Return the same over gRPC."""
    asked = service_pb2.ModelInferRequest(model_name="snake")
    asked.inputs.add(name="observation", datatype="UINT8", shape=[rows, CELLS])
    asked.raw_input_contents.append(observations(rows).tobytes())
    if state:
        asked.inputs.add(name="state", datatype="FP32", shape=[rows, state])
        asked.raw_input_contents.append(np.zeros((rows, state), np.float32).tobytes())
        for name in ("action", "next_state"):
            asked.outputs.add(name=name)
    if of:
        asked.parameters["sequence_id"].int64_param = of
        asked.parameters["sequence_start"].bool_param = start
    return asked


def with_memory(served: dict[str, Any], clients: int) -> Iterator[tuple[str, Measure]]:
    """Yield ways to ask a policy with memory for a row: clients carry the state, or each has a sequence of its own."""
    http, rpc = int(served["url"].rpartition(":")[2]), int(served["grpc"].rpartition(":")[2])
    path, size, numbers = "/v2/models/snake/infer", remembering_spec().memory_size, count(1)

    def http_sequence() -> HttpClient:
        own = next(numbers)
        _answered(HttpClient(http, path, *http_request(1, sequence_id=own, sequence_start=True)))
        return HttpClient(http, path, *http_request(1, sequence_id=own))

    def grpc_sequence() -> GrpcClient:
        own = next(numbers)
        _answered(GrpcClient(rpc, INFER, grpc_request(1, of=own, start=True).SerializeToString()))
        return GrpcClient(rpc, INFER, grpc_request(1, of=own).SerializeToString())

    yield "HTTP, minGRU, state carried", load(lambda: HttpClient(http, path, *http_request(1, size)), clients)
    yield "HTTP, minGRU, sequences", load(http_sequence, clients)
    message = grpc_request(1, size).SerializeToString()
    yield "gRPC, minGRU, state carried", load(lambda: GrpcClient(rpc, INFER, message), clients)
    yield "gRPC, minGRU, sequences", load(grpc_sequence, clients)


def _answered(client: Client) -> None:
    """Ask once."""
    client.ask()
    while not client.read():
        pass
    client.socket.close()


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


def ways(served: dict[str, Any], remembering: dict[str, Any], bare: dict[str, int]) -> Iterator[Way]:
    """Yield every way to ask."""
    http, rpc = int(served["url"].rpartition(":")[2]), int(served["grpc"].rpartition(":")[2])
    path = "/v2/models/snake/infer"
    few, few_headers = http_request(1)
    many, many_headers = http_request(1024)

    def bare_http() -> HttpClient:
        return HttpClient(bare["http"], "/", observations(1).tobytes())

    def bare_grpc() -> GrpcClient:
        return GrpcClient(bare["grpc"], METHOD, observations(1).tobytes())

    for clients in (1, 64):
        asking = load(lambda: HttpClient(http, path, few, few_headers), clients)
        yield Way("HTTP", 1, clients, asking, load(bare_http, clients))
        asking = load(lambda: GrpcClient(rpc, INFER, grpc_request(1).SerializeToString()), clients)
        yield Way("gRPC", 1, clients, asking, load(bare_grpc, clients))
    for name, measure in with_memory(remembering, 64):
        yield Way(name, 1, 64, measure, load(bare_http if name.startswith("HTTP") else bare_grpc, 64))
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
        load(bare_http, 1),
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
        path, memory = Path(folder) / "snake.safetensors", Path(folder) / "memory" / "snake.safetensors"
        memory.parent.mkdir()
        path.write_bytes(dump_policy(policy()))
        memory.write_bytes(dump_policy(policy(remembering_spec())))
        serve = ("-P", "-m", "rattle.cli", "inference", "--port", "0", "--grpc-port", "0", "--policy")
        with (
            process(*serve, str(path)) as served,
            process(*serve, str(memory)) as remembering,
            process(str(Path(__file__).with_name("bare_serving.py")), str(path)) as bare,
        ):
            asked = list(ways(served, remembering, bare))
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
        "transport, with as many clients. Policies with memory have a layer of minGRU instead of the second one, whose "
        "memory clients carry, or the service keeps in sequences; their floor has no memory. "
        "A client package is held against a floor that is asked without it.",
        table(
            ("", "median", "99 %", "requests/s", "best", "rows/s", "floor: requests/s", "of the floor"),
            [row(way, taken[number, False], taken[number, True]) for number, way in enumerate(asked)],
        ),
    )


if __name__ == "__main__":
    main()
