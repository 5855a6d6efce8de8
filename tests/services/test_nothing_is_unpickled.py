"""Nothing that a service receives is ever unpickled.

tests/policies/test_nothing_is_unpickled.py reads the sources of the whole package for what could. Here the interpreter
itself reports, by an audit hook in real processes of the Env and Inference services, what is looked up for a pickle,
while pickles are sent in every place that takes bytes, by clients and by the servers that the services ask.
tests/services/training/test_process.py does the same to the Training service.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from websockets.sync.client import connect

from rattle.services.utils.protos import training_pb2
from rattle.services.utils.protos.open_inference_pb2 import ModelInferRequest
from rattle.services.utils.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.processes import ServiceProcess
from tests.services.env.agent_server import PATIENCE, eventually
from tests.services.inference.learner_double import LearnerDouble, policy_message

SPY = """
import os, pickle, sys
log = os.open(os.environ["SPY_LOG"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
def spy(event, arguments):
    if event == "pickle.find_class" and arguments[0] == "posix":
        os.write(log, ".".join(arguments).encode() + b"\\n")
sys.addaudithook(spy)
pickle.loads(pickle.dumps(os.getpid))  # the spy does see what is unpickled
"""
SEEN_BY_THE_SPY = "posix.getpid"
MEDIA_TYPES = ("application/json", "application/msgpack", "application/octet-stream", "application/x-pickle")
DTYPES = ("uint8", "float32", "object", "O", "|O8", "pickle")


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


class Spy:
    """What the interpreters of the services report."""

    def __init__(self, folder: Path) -> None:
        (folder / "sitecustomize.py").write_text(SPY)
        self._log = folder / "spy.log"
        self._canary = folder / "canary"
        #: In the oldest protocol, which is text, and in the newest.
        self.pickles = [pickle.dumps(Evil(self._canary), protocol) for protocol in (0, pickle.HIGHEST_PROTOCOL)]

    def has_seen_nothing(self) -> bool:
        seen = set(self._log.read_text().split())
        assert SEEN_BY_THE_SPY in seen, "the spy was not there"
        return seen == {SEEN_BY_THE_SPY} and not self._canary.exists()


@pytest.fixture
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spy:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SPY_LOG", str(tmp_path / "spy.log"))
    return Spy(tmp_path)


def send(url: str, method: str, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """Return status and body of an answer."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def send_everywhere(url: str, paths: tuple[str, ...], evil: bytes) -> None:
    """Send a pickle as the body of every kind of request; each is refused."""
    for path in paths:
        for media_type in MEDIA_TYPES:
            for headers in ({}, {"Content_Encoding": "pickle"}):
                assert 400 <= send(url, "POST", path, evil, Content_Type=media_type, **headers)[0] < 500, path


def msgpack_arrays(evil: bytes) -> Iterator[dict[str, Any]]:
    """Yield arrays of the wire whose bytes are a pickle."""
    for dtype in DTYPES:
        yield {"dtype": dtype, "shape": [len(evil)], "data": evil}
        yield {"dtype": dtype, "shape": [1], "data": evil}
    yield {"__class__": evil, "data": evil}


def test_env(spy: Spy) -> None:
    with ServiceProcess("env") as env:
        status, created = send(env.url, "POST", "/v1/sessions", b'{"worlds": 1}', Content_Type="application/json")
        assert status == 201
        session = f"/v1/sessions/{json.loads(created)['session']}"
        for evil in spy.pickles:
            send_everywhere(
                env.url,
                ("/v1/sessions", f"{session}/step", f"{session}/reset", f"{session}/state", "/reset", "/snake/a/move"),
                evil,
            )
            for array in msgpack_arrays(evil):
                for path, message in (
                    ("/step", {"step": 1, "action": array}),
                    ("/state", {"step": 1, "state": {"worlds": array, "board": array}}),
                    ("/reset", {"step": 1, "seed": array}),
                ):
                    body = msgspec.msgpack.encode(message)
                    said = send(env.url, "POST", session + path, body, Content_Type="application/msgpack")
                    assert 400 <= said[0] < 500, said
            with connect(f"ws{env.url[4:]}{session}/ws", proxy=None) as link, suppress(ConnectionError):
                link.send(evil)
                link.recv(PATIENCE)
                link.send(msgspec.msgpack.encode({"step": 1, "action": {"dtype": "O", "shape": [1], "data": evil}}))
                link.recv(PATIENCE)
        step = send(env.url, "POST", f"{session}/step", b'{"step": 1, "action": [0]}', Content_Type="application/json")
        assert step[0] == 200, "it still serves"
    assert spy.has_seen_nothing()


def test_inference(spy: Spy) -> None:
    learner = LearnerDouble()
    learner.send(policy_message(0))
    addresses = ("--training", learner.address, "--grpc-port", "0")
    with ServiceProcess("inference", *addresses) as inference:
        eventually(lambda: send(inference.url, "GET", "/v2/health/ready", b"")[0] == 200)
        for evil in spy.pickles:
            send_everywhere(inference.url, ("/v2/models/main/infer", "/v1/agents", "/v1/agents/main-0/dance"), evil)
            for datatype in ("UINT8", "BYTES", "FP32", "PICKLE"):
                tensor = {"name": "observation", "shape": [1, len(evil)], "datatype": datatype}
                binary = {**tensor, "parameters": {"binary_data_size": len(evil)}}
                head = json.dumps({"inputs": [binary]}).encode()
                said = send(
                    inference.url,
                    "POST",
                    "/v2/models/main/infer",
                    head + evil,
                    Inference_Header_Content_Length=str(len(head)),
                )
                assert 400 <= said[0] < 500, said
            infer_pickles_by_grpc(inference.hello["grpc"], evil)
            learner.send(training_pb2.Policy(policy_id="main", version=1, lineage="first", file=evil))
            watched = len(learner.watched)
            learner.wait_for(lambda watched=watched: len(learner.watched) > watched)  # type: ignore[misc]
        assert send(inference.url, "GET", "/v2/models/main/ready", b"")[0] == 200, "it still serves"
    learner.stop()
    assert spy.has_seen_nothing()


def infer_pickles_by_grpc(address: str, evil: bytes) -> None:
    shape = [1, len(evil)]
    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for datatype in ("UINT8", "BYTES", "FP32"):
            tensor = ModelInferRequest.InferInputTensor(name="observation", datatype=datatype, shape=shape)
            as_bytes = ModelInferRequest.InferInputTensor(name="observation", datatype=datatype, shape=shape)
            as_bytes.contents.bytes_contents.append(evil)
            for request in (
                ModelInferRequest(model_name="main", inputs=[tensor], raw_input_contents=[evil]),
                ModelInferRequest(model_name="main", inputs=[as_bytes]),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    stub.ModelInfer(request, timeout=PATIENCE)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        raw = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError):
            raw(evil, timeout=PATIENCE)


@contextmanager
def answering_with(bodies: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """Serve pickles to whoever asks; gives the address and the requests that came."""
    came: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                came.append(connection.recv(65536))
                media_type = MEDIA_TYPES[len(came) % len(MEDIA_TYPES)]
                body = bodies[len(came) % len(bodies)]
                head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {media_type}\r\n\r\n"
                connection.sendall(head.encode() + body + b"\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", came
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)


@pytest.mark.parametrize("api", ["vector", "agent"])
def test_actors_whose_servers_answer_with_pickles(spy: Spy, api: str) -> None:
    learner = LearnerDouble()
    learner.send(policy_message(0))
    bodies = [*spy.pickles, *(msgspec.msgpack.encode({"step": 0, "observation": evil}) for evil in spy.pickles)]
    with answering_with(bodies) as (url, came):
        settings = (f"inference.api={api}", "inference.snakes=4", "inference.actors=4", "env.wait_seconds=0")
        arguments = ("--training", learner.address, "--env", url, "--grpc-port", "0")
        with ServiceProcess("inference", *arguments, settings=settings) as inference:
            eventually(lambda: len(came) >= 12)
            assert send(inference.url, "GET", "/healthz", b"")[0] == 200
    learner.stop()
    assert learner.rollouts == []
    assert spy.has_seen_nothing()


def test_the_spy_sees_what_is_unpickled(spy: Spy, tmp_path: Path) -> None:
    """The control: a process that unpickles is found out."""
    (tmp_path / "sent").write_bytes(spy.pickles[0])
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "sent")], check=True)
    assert not spy.has_seen_nothing()
