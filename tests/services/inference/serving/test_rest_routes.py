"""The protocol over real HTTP: every route, every problem, bodies of all kinds."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.services.inference.serving.building import chosen, policy, rows
from tests.services.inference.serving.inference_process import JSON_LENGTH, Answer, InferenceProcess, serving, write
from tests.services.measured import check_described

LIMIT = 2**16
INFER = "/v2/models/snakes/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceProcess]:
    path = tmp_path_factory.mktemp("policies") / "snakes.safetensors"
    write(path, policy())
    with serving(path, f"inference.max_body_bytes={LIMIT}", "inference.max_queue=64") as running:
        yield running


def problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Return the problem that an answer must be: the protocol's error form, and more."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer.raw
    said: dict[str, Any] = answer.json
    assert (said["status"], said["code"]) == (status, code)
    assert said["error"] == said["detail"] != ""
    return said


def described(parameters: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    one = {"name": "observation", "shape": [2, 9], "datatype": "UINT8", "parameters": {"binary_data_size": 18}}
    return {"inputs": [one], "parameters": parameters or {}, **more}


def packed(parameters: dict[str, Any] | None = None, **more: Any) -> tuple[bytes, dict[str, str]]:
    head = json.dumps(described(parameters, **more)).encode()
    return head + rows(2).tobytes(), {JSON_LENGTH: str(len(head))}


def test_all_numbers_are_described(server: InferenceProcess) -> None:
    body, headers = packed()
    server.ask("POST", INFER, body, headers)
    shown = check_described(server.ask("GET", "/metrics").raw, "inference")
    assert {"rattle_inference_pass_rows", "rattle_inference_policy_version", "rattle_requests"} <= shown


def test_the_first_line_says_where_and_what(server: InferenceProcess) -> None:
    assert server.hello["service"] == "inference"
    assert server.hello["models"] == ["snakes"]
    assert server.grpc.startswith("127.0.0.1:")


@pytest.mark.parametrize("path", ["/v2/models/snakes", "/v2/models/snakes/versions/7"])
def test_models_say_what_they_take_and_give(server: InferenceProcess, path: str) -> None:
    known = server.ask("GET", path).json
    assert (known["name"], known["versions"], known["platform"]) == ("snakes", ["7"], "rattle")
    assert known["inputs"] == [{"name": "observation", "datatype": "UINT8", "shape": [-1, 9]}]
    assert [output["name"] for output in known["outputs"]] == ["action", "log_prob", "logits", "value"]
    assert server.ask("GET", "/v1/models").json == {"models": [known]}


@pytest.mark.parametrize(
    "path", ["/v2/health/live", "/v2/health/ready", "/v2/models/snakes/ready", "/v2/models/snakes/versions/7/ready"]
)
def test_readiness_is_told_by_the_status(server: InferenceProcess, path: str) -> None:
    assert server.ask("GET", path).status == 200


def test_the_server_says_what_it_is(server: InferenceProcess) -> None:
    assert server.ask("GET", "/v2").json["extensions"][:2] == ["binary_tensor_data", "parameters"]
    for path in ("/healthz", "/readyz"):
        assert server.ask("GET", path).status == 200
        assert server.ask("HEAD", path).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/models/others", 404, "unknown_policy"),
        ("GET", "/v2/models/others/ready", 404, "unknown_policy"),
        ("GET", "/v2/models/snakes/versions/8/ready", 404, "unknown_policy"),
        ("POST", "/v2/models/snakes/versions/8/infer", 404, "unknown_policy"),
        ("GET", "/v2/models/snakes/config", 404, "unknown_path"),
        ("GET", "/v2x", 404, "unknown_path"),
        ("POST", "/v2/repository/index", 404, "unknown_path"),
        ("POST", "/v2/models/snakes/generate", 404, "unknown_path"),
        ("POST", "/metrics", 405, "wrong_method"),
        ("DELETE", "/healthz", 405, "wrong_method"),
        ("GET", "/", 404, "unknown_path"),
        ("GET", "/v1/agents", 404, "unknown_path"),
        ("GET", "/v2/" + "x" * 1000, 404, "unknown_path"),
        ("GET", INFER, 405, "wrong_method"),
        ("POST", "/v2/health/live", 405, "wrong_method"),
        ("POST", INFER, 400, "bad_request"),
    ],
)
def test_what_cannot_be_answered_is_said(
    server: InferenceProcess, method: str, path: str, status: int, code: str
) -> None:
    body = packed()[0] if "versions" in path and method == "POST" else None
    said = server.ask(method, path, body, packed()[1] if body else {"Content-Type": "application/json"})
    assert len(problem(said, status, code)["error"]) < 300
    if code == "wrong_method":
        assert said.headers["allow"] in ("GET", "POST")


def test_actions_come_back_as_json_or_as_bytes(server: InferenceProcess) -> None:
    action = chosen(policy(), rows(2), 3)[0]
    body, headers = packed({"seed": 3}, id="x")
    plain = server.ask("POST", INFER, body, headers)
    assert plain.headers["content-type"] == "application/json"
    assert plain.json == {
        "model_name": "snakes",
        "model_version": "7",
        "id": "x",
        "outputs": [{"name": "action", "datatype": "INT64", "shape": [2], "data": action}],
    }
    body, headers = packed({"seed": 3, "binary_data_output": True})
    binary = server.ask("POST", INFER, body, headers)
    assert binary.headers["content-type"] == "application/octet-stream"
    length = int(binary.headers[JSON_LENGTH.lower()])
    assert json.loads(binary.raw[:length])["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(binary.raw[length:], "<i8").tolist() == action
    assert server.infer("snakes", rows(2), seed=3).json["outputs"][0]["data"] == action


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)])
def test_bodies_may_be_compressed(server: InferenceProcess, coding: str, pack: Any) -> None:
    body, headers = packed({"seed": 3})
    answer = server.ask("POST", INFER, pack(body), {**headers, "Content-Encoding": coding})
    assert answer.json["outputs"][0]["data"] == chosen(policy(), rows(2), 3)[0]


@pytest.mark.parametrize(
    ("body", "coding", "status", "code"),
    [
        (b"{}", "br", 415, "unsupported_type"),
        (b"{}", "gzip", 400, "bad_request"),
        (gzip.compress(packed()[0])[:-9], "gzip", 400, "bad_request"),
        (gzip.compress(b" " * 100 * LIMIT), "gzip", 413, "too_large"),
        (zlib.compress(b" " * (LIMIT + 1)), "deflate", 413, "too_large"),
        (b" " * (LIMIT + 1), "identity", 413, "too_large"),
    ],
)
def test_bodies_that_do_not_unpack_are_refused(
    server: InferenceProcess, body: bytes, coding: str, status: int, code: str
) -> None:
    problem(server.ask("POST", INFER, body, {"Content-Encoding": coding}), status, code)


def test_a_bad_row_is_named_and_a_good_one_beside_it_is_answered(server: InferenceProcess) -> None:
    bad = rows(2)
    bad[1, 4] = 9
    said = problem(server.infer("snakes", bad), 400, "bad_value")
    assert said["error"] == "observation: must hold cell codes from 0 to 3, and [1, 4] is 9"
    assert said["field"] == "observation"
    assert server.infer("snakes", rows(2)).status == 200


def test_more_rows_than_may_wait_are_refused(server: InferenceProcess) -> None:
    said = problem(server.infer("snakes", rows(65)), 400, "bad_value")
    assert said["error"] == "observation: a request has 1 to 64 rows, got 65"


def test_requests_may_follow_each_other_before_they_are_answered(server: InferenceProcess) -> None:
    body, headers = packed({"seed": 3})
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    one = f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body
    with socket.create_connection(("127.0.0.1", server.port), timeout=240) as connection:
        connection.sendall(one * 20)
        seen = b""
        while seen.count(b"200 OK") < 20:
            part = connection.recv(2**16)
            assert part
            seen += part
    assert b"HTTP/1.1 4" not in seen


def test_what_happens_is_counted(server: InferenceProcess) -> None:
    count, over = 'rattle_requests_total{api="rest",status="%d"}', 'rattle_inference_pass_rows_sum{model="snakes"}'
    before = server.number(count % 200), server.number(count % 400), server.number(over)
    server.infer("snakes", rows(5))
    server.infer("snakes", rows(65))
    assert server.number(count % 200) >= before[0] + 1
    assert server.number(count % 400) == before[1] + 1
    assert server.number(over) == before[2] + 5
    assert server.number('rattle_inference_policy_version{model="snakes"}') == 7
    for state in ("waiting", "running"):
        assert server.number(f'rattle_inference_{state}_rows{{model="snakes"}}') == 0
    assert server.number('rattle_request_seconds_count{api="rest"}') > 0


def test_sockets_are_declined(server: InferenceProcess) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    problem(server.ask("GET", "/v2", headers={**upgrade, **key}), 404, "unknown_path")
