"""The service as a process: public clients, policies that are replaced, clients that leave, and how it ends."""

from __future__ import annotations

import gzip
import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from rattle.policies.mlp.spec import MlpSpec
from rattle.samples.spaces import CodeSpace, FloatSpace
from rattle.services.utils.protos import open_inference_pb2 as pb
from rattle.services.utils.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from rattle.trainer.train import train
from tests.services.inference.serving.building import FLOATS, MEMORY, PATIENCE, chosen, policy, rows
from tests.services.inference.serving.inference_process import InferenceProcess, serving, write
from tests.template import run
from tests.trainer.conftest import Silence, small_settings

pytestmark = pytest.mark.integration

#: A policy whose passes take so long that much can happen meanwhile: about a second for SLOW_ROWS.
SLOW = MlpSpec(
    observation=FloatSpace(size=64), num_actions=2, hidden_sizes=(2048, 2048), activation="relu", value_head=False
)
SLOW_ROWS = 4000
TOKEN = "the-token-of-these-tests"  # noqa: S105
COMPUTED = 'rattle_inference_pass_rows_sum{model="slow"}'
WAITING = 'rattle_inference_waiting_rows{model="slow"}'
RUNNING = 'rattle_inference_running_rows{model="slow"}'


def eventually(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(scope="module")
def snakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceProcess]:
    """A service that asks for a token."""
    path = tmp_path_factory.mktemp("policies") / "snakes.safetensors"
    write(path, policy())
    path.with_name("token").touch(0o600)
    path.with_name("token").write_text(TOKEN)
    with serving(path, f"security.token_file={path.with_name('token')}") as running:
        yield running


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_public_client_package_gets_on_with_it(snakes: InferenceProcess, protocol: str) -> None:
    address = snakes.url.removeprefix("http://") if protocol == "http" else snakes.grpc
    script = Path(__file__).with_name("triton_clients.py")
    command = [sys.executable, str(script), protocol, address, TOKEN]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr


def test_it_plays_whole_games_with_a_policy_that_remembers(tmp_path: Path) -> None:
    path = tmp_path / "snakes.safetensors"
    write(path, policy(MEMORY.model_copy(update={"observation": CodeSpace(cells=60, codes=5), "hidden_sizes": (16,)})))
    with serving(path) as server:
        script = Path(__file__).with_name("triton_games.py")
        command = [sys.executable, str(script), str(path), server.url.removeprefix("http://"), server.grpc]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert ended.returncode == 0, ended.stderr


def test_a_policy_that_is_replaced_is_served_from_then_on_and_never_half(tmp_path: Path) -> None:
    versions = {str(version): policy(version=version, seed=version) for version in range(7, 12)}
    path, observation = tmp_path / "snakes.safetensors", rows(20)
    write(path, versions["7"])
    expected = {version: chosen(made_by, observation, 5)[0] for version, made_by in versions.items()}
    seen: list[str] = []
    over = threading.Event()

    def ask(server: InferenceProcess) -> None:
        while not over.is_set():
            said = server.infer("snakes", observation, seed=5).json
            assert said["outputs"][0]["data"] == expected[said["model_version"]]
            seen.append(said["model_version"])

    with serving(path) as server, ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask, server) for _ in range(4)]
        try:
            for version, made_by in versions.items():
                write(path, made_by)
                eventually(lambda version=version: version in seen)  # type: ignore[misc]
            path.write_bytes(b"damaged")
            eventually(lambda: server.ask("GET", "/readyz").status == 200)
            write(path, versions["7"])  # versions go back after a crash of the learner
            count = len(seen)
            eventually(lambda: "7" in seen[count:])
        finally:
            over.set()
        for one in asking:
            one.result(timeout=PATIENCE)
    assert set(seen) == set(versions)


def test_small_bombs_cost_little_and_health_is_answered_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "snakes.safetensors"
    write(path, policy())
    head = b'{"inputs":[{"name":"observation","datatype":"UINT8","shape":[1,9],"data":['
    bomb, headers = gzip.compress(head + b"[0]," * 3_900_000 + b"[0]]}]}"), {"Content-Encoding": "gzip"}
    with serving(path) as server, ThreadPoolExecutor(4) as threads:
        infer = "/v2/models/snakes/infer"
        assert server.ask("POST", infer, bomb, headers).status == 413
        before = server.cpu_seconds()
        attacks = [threads.submit(server.ask, "POST", infer, bomb, headers) for _ in range(40)]
        while not all(attack.done() for attack in attacks):
            assert server.ask("GET", "/healthz").status == 200
        assert {attack.result().status for attack in attacks} == {413}
        assert server.cpu_seconds() - before < 20, "each took more than a second when it was decoded"


def test_a_run_is_served_under_its_name(tmp_path: Path) -> None:
    run = tmp_path / "20300101-first"
    train(small_settings(), run, Silence())
    with serving(run) as server:
        assert server.hello["models"] == [run.name]
        model = server.ask("GET", f"/v2/models/{run.name}").json
        assert model["inputs"] == [{"name": "observation", "datatype": "UINT8", "shape": [-1, 60]}]


def slow_message(count: int) -> pb.ModelInferRequest:
    asked = pb.ModelInferRequest(model_name="slow")
    asked.inputs.add(name="observation", datatype="FP32", shape=[count, 64])
    asked.raw_input_contents.append(np.zeros((count, 64), np.float32).tobytes())
    return asked


@dataclass(frozen=True)
class SlowServer:
    """The slow policy, served."""

    process: InferenceProcess
    stub: GRPCInferenceServiceStub

    def keep_busy(self) -> list[grpc.Future]:
        """Have a large request computed, and another one wait: they do not fit into one pass."""
        computed = self._ask_large()
        # While the first one waits, a second one would find no room.
        eventually(lambda: self.process.number(RUNNING) == SLOW_ROWS or computed.done())
        waits = self._ask_large()
        eventually(lambda: self.process.number(WAITING) == SLOW_ROWS or computed.done())
        if not computed.done():
            return [computed, waits]
        waits.exception()  # this machine was busy elsewhere: the first one is over already
        return self.keep_busy()

    def _ask_large(self) -> grpc.Future:
        return self.stub.ModelInfer.future(slow_message(SLOW_ROWS), timeout=PATIENCE)

    def computed(self) -> float:
        """Return how many rows have been computed, besides those of large requests."""
        return self.process.number(COMPUTED) % SLOW_ROWS


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowServer]:
    path = tmp_path_factory.mktemp("policies") / "slow.safetensors"
    write(path, policy(SLOW))
    with (
        serving(path, f"inference.max_queue={SLOW_ROWS + 100}") as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        yield SlowServer(server, GRPCInferenceServiceStub(channel))


ONE_ROW = np.zeros((1, 64), np.float32)


def test_what_comes_too_late_is_not_computed(slow: SlowServer) -> None:
    large, before = slow.keep_busy(), slow.computed()
    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        slow.stub.ModelInfer(slow_message(2), timeout=0.02)
    late = slow_message(4)
    late.parameters["timeout"].int64_param = 1
    over_grpc = slow.stub.ModelInfer.future(late, timeout=PATIENCE)
    answer = slow.process.infer("slow", ONE_ROW, timeout=1)
    assert (answer.status, answer.json["code"]) == (504, "too_late")
    assert over_grpc.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert slow.process.infer("slow", ONE_ROW, timeout=60_000_000).status == 200
    assert slow.computed() == before + 1
    assert [one.code() for one in large] == [grpc.StatusCode.OK] * 2


def test_what_nobody_waits_for_is_not_computed(slow: SlowServer) -> None:
    large, before = slow.keep_busy(), slow.computed()
    cancelled = slow.stub.ModelInfer.future(slow_message(8), timeout=PATIENCE)
    stays = slow.stub.ModelInfer.future(slow_message(32), timeout=PATIENCE)
    leaving = http.client.HTTPConnection("127.0.0.1", slow.process.port, timeout=PATIENCE)
    body = {"inputs": [{"name": "observation", "shape": [16, 64], "datatype": "FP32", "data": [0] * 16 * 64}]}
    leaving.request("POST", "/v2/models/slow/infer", json.dumps(body).encode())
    eventually(lambda: slow.process.number(WAITING) in (SLOW_ROWS + 56, 56))
    cancelled.cancel()
    leaving.close()
    eventually(lambda: slow.process.number(WAITING) < 56 + SLOW_ROWS)
    assert stays.result().outputs[0].shape == [32]
    assert [one.code() for one in large] == [grpc.StatusCode.OK] * 2
    eventually(lambda: slow.process.number('rattle_requests_total{api="rest",status="499"}') >= 1)
    assert slow.process.number('rattle_requests_total{api="grpc",status="CANCELLED"}') >= 1
    assert slow.computed() == before + 32


def test_beyond_the_queue_requests_are_refused_at_once(slow: SlowServer) -> None:
    statuses, codes = set(), set()

    def both_are_refused() -> bool:
        large = slow.keep_busy()
        answer = slow.process.infer("slow", np.zeros((101, 64), np.float32))
        statuses.add(answer.status)
        if answer.status == 503:
            assert answer.headers["retry-after"] == "1"
            assert answer.json["error"] == f"{SLOW_ROWS} rows wait and {SLOW_ROWS + 100} may: try again in a while"
        codes.add(slow.stub.ModelInfer.future(slow_message(101), timeout=PATIENCE).code())
        assert [one.code() for one in large] == [grpc.StatusCode.OK] * 2
        return 503 in statuses and grpc.StatusCode.RESOURCE_EXHAUSTED in codes

    eventually(both_are_refused)
    assert statuses <= {200, 503}
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert slow.process.infer("slow", ONE_ROW).status == 200


def test_when_it_stops_it_answers_what_it_has_begun(tmp_path: Path) -> None:
    path = tmp_path / "slow.safetensors"
    write(path, policy(SLOW))
    with serving(path) as server, grpc.insecure_channel(server.grpc) as channel, ThreadPoolExecutor(1) as threads:
        stub = GRPCInferenceServiceStub(channel)
        stub.ModelInfer(slow_message(1), timeout=PATIENCE)
        over_grpc = stub.ModelInfer.future(slow_message(500), timeout=PATIENCE)
        over_http = threads.submit(server.infer, "slow", np.zeros((500, 64), np.float32))
        # Both have come: rows go from the last of these to the first, so that none is counted twice.
        eventually(lambda: sum(map(server.number, (COMPUTED, RUNNING, WAITING))) >= 1001)
        assert server.kill(signal.SIGTERM) == 0
        assert over_grpc.result().outputs[0].shape == [500]
        assert over_http.result(timeout=PATIENCE).status == 200


def test_it_ends_by_interrupt_as_well(tmp_path: Path) -> None:
    path = tmp_path / "snakes.safetensors"
    write(path, policy(FLOATS))
    with serving(path) as server:
        assert server.kill(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "nothing"], "nothing"),
        (["--policy", __file__], "not a safetensors file"),
        (["--policy", "snakes.safetensors", "--host", "no host"], "cannot listen on 'no host'"),
    ],
)
def test_what_it_cannot_serve_it_says_in_a_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    write(tmp_path / "snakes.safetensors", policy())
    ended = run("inference", *arguments, "--port", "0", "--grpc-port", "0", cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) <= 2, ended.stderr


def test_ports_that_are_taken_are_named(snakes: InferenceProcess, tmp_path: Path) -> None:
    write(tmp_path / "snakes.safetensors", policy())
    taken = snakes.grpc.rpartition(":")[2]
    for option in ("--port", "--grpc-port"):
        free = {"--port": "0", "--grpc-port": "0"} | {option: taken}
        ports = [part for pair in free.items() for part in pair]
        ended = run("inference", "--policy", "snakes.safetensors", *ports, cwd=tmp_path)
        assert ended.returncode == 1
        assert f"port {taken} of 127.0.0.1" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_serving_needs_no_framework_that_learns() -> None:
    code = (
        "import sys, rattle.services.inference.serve; print(sorted({'torch', 'pyarrow', 'fastapi'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout.strip() == "[]"
