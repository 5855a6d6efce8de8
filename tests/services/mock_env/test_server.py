"""The service over real sockets: routes, errors, streams, and how it starts and stops."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from rattle.services.mock_env import server
from rattle.services.mock_env.app import MAX_BODY_BYTES
from rattle.services.mock_env.script import line
from rattle.services.mock_env.server import MockEnv, MockSettings
from rattle.settings.services import SecuritySection
from tests.ports import free_port
from tests.services.mock_env.servers import MOCK_ENV, mock_env_process


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A client of a server whose scripts go on with moves only."""
    with MockEnv(MockSettings(snakes=2, delay=3600)) as env, httpx.Client(base_url=env.url, timeout=20) as client:
        yield client


def read(stream: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(text) for text in stream.iter_lines()]


def test_a_stream_is_the_script_byte_for_byte() -> None:
    with MockEnv(MockSettings(delay=0.01)) as env, httpx.stream("GET", f"{env.url}/snake/anna", timeout=20) as stream:
        assert stream.headers["content-type"] == "application/x-ndjson"
        assert stream.headers["transfer-encoding"] == "chunked"
        body = stream.read()
    got = body.splitlines(keepends=True)
    assert len(got) == 11
    for tick, raw in enumerate(got):
        moment = json.loads(raw)["datetime"]
        assert raw == msgspec.json.encode(line("anna", tick, 10, moment)) + b"\n"


def test_a_client_of_http_1_0_gets_lines_without_chunks() -> None:
    with (
        MockEnv(MockSettings(length=3, delay=0.01)) as env,
        socket.create_connection(("127.0.0.1", int(env.url.rpartition(":")[2])), timeout=20) as asking,
    ):
        asking.sendall(b"GET /snake/anna HTTP/1.0\r\n\r\n")
        head, _, body = b"".join(iter(lambda: asking.recv(4096), b"")).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert [json.loads(text)["tick"] for text in body.splitlines()] == [0, 1, 2, 3]


@pytest.mark.parametrize("hosts", [b"", b"Host: one\r\nHost: two\r\n"])
def test_a_request_of_http_1_1_has_one_host(http: httpx.Client, hosts: bytes) -> None:
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=20) as asking:
        asking.sendall(b"GET /healthz HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
        head, _, body = b"".join(iter(lambda: asking.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"] == "a request of HTTP/1.1 has one Host header (RFC 9112, 3.2)"


def test_each_move_brings_a_line_to_every_reader(http: httpx.Client) -> None:
    with http.stream("GET", "/snake/anna") as one:
        first = one.iter_lines()
        assert json.loads(next(first))["tick"] == 0
        assert http.post("/snake/anna/move", json={"move": "left"}).json() == {"snake_id": "anna", "game_over": False}
        assert json.loads(next(first))["tick"] == 1
        with http.stream("GET", "/snake/anna?lines=all") as two:
            second = two.iter_lines()
            assert json.loads(next(second))["tick"] == 1, "how things stand when the reader arrives"
            for tick in range(2, 11):
                over = http.post("/snake/anna/move", json={"move": "forward"}).json()["game_over"]
                assert over is (tick == 10)
            rest = list(first)
            assert rest == list(second)
            assert [json.loads(text)["tick"] for text in rest] == list(range(2, 11))
    assert http.post("/snake/anna/move", json={"move": "forward"}).json()["game_over"] is True


def test_resets_end_streams_with_their_last_line(http: httpx.Client) -> None:
    with http.stream("GET", "/snake/anna") as stream:
        assert http.post("/snake/anna/reset", **JSON).json() == {"snake_id": "anna", "game_over": False}
        assert [state["game_over"] for state in read(stream)] == [False, True]
    with http.stream("GET", "/snake/anna") as stream:
        assert http.post("/reset", json={"seed": 3}).json() == {"game_over": False, "seed": 3}
        assert [state["tick"] for state in read(stream)] == [0, 1]
    assert http.get("/state").json()["seed"] == 3


def test_a_full_server_says_when_to_come_again(http: httpx.Client) -> None:
    with http.stream("GET", "/snake/a"), http.stream("GET", "/snake/b"):
        refused = http.get("/snake/c")
        assert (refused.status_code, refused.json()["code"]) == (503, "full")
        assert int(refused.headers["retry-after"]) > 0
        assert http.get("/").json()["agents"] == 2


def test_streams_are_bounded(http: httpx.Client) -> None:
    streams = [http.send(http.build_request("GET", "/snake/a"), stream=True) for _ in range(9)]
    assert [stream.status_code for stream in streams] == [200] * 8 + [503]
    for stream in streams:
        stream.close()


def test_a_reader_that_has_gone_gives_its_place_back(http: httpx.Client) -> None:
    for _ in range(3):
        streams = [http.send(http.build_request("GET", "/snake/a"), stream=True) for _ in range(8)]
        for stream in streams:
            stream.close()
        tried = 0
        while (again := http.send(http.build_request("GET", "/snake/a"), stream=True)).status_code != 200:
            again.close()
            tried += 1
            assert tried < 1000
            threading.Event().wait(0.05)
        again.close()


JSON = {"headers": {"Content-Type": "application/json"}}
WRONG: dict[str, tuple[str, str, dict[str, Any], int, str, str | None]] = {
    "bad move": ("POST", "/snake/a/move", {"json": {"move": "up"}}, 400, "bad_value", "move"),
    "no move": ("POST", "/snake/a/move", {"json": {}}, 400, "bad_value", "move"),
    "a list for a move": ("POST", "/snake/a/move", {"json": {"move": ["left"]}}, 400, "bad_value", "move"),
    "unknown field": ("POST", "/snake/a/move", {"json": {"move": "left", "x": 1}}, 400, "bad_value", "x"),
    "no JSON": ("POST", "/snake/a/move", {"content": b'{"move"', **JSON}, 400, "bad_request", None),
    "no text": ("POST", "/snake/a/move", {"content": b'{"move":"\xff"}', **JSON}, 400, "bad_request", None),
    "deep JSON": ("POST", "/snake/a/move", {"content": b"[" * 100_000, **JSON}, 400, "bad_request", None),
    "empty": ("POST", "/snake/a/move", JSON, 400, "bad_request", None),
    "a list": ("POST", "/snake/a/move", {"json": ["left"]}, 400, "bad_request", None),
    "no type": ("POST", "/reset", {}, 415, "unsupported_type", "Content-Type"),
    "a form": ("POST", "/snake/a/move", {"data": {"move": "left"}}, 415, "unsupported_type", "Content-Type"),
    "unknown snake": ("POST", "/snake/nobody/move", {"json": {"move": "left"}}, 404, "unknown_snake", None),
    "unknown to reset": ("POST", "/snake/nobody/reset", JSON, 404, "unknown_snake", None),
    "fields in a reset": ("POST", "/snake/a/reset", {"json": {"seed": 1}}, 400, "bad_value", "seed"),
    "negative seed": ("POST", "/reset", {"json": {"seed": -1}}, 400, "bad_value", "seed"),
    "large seed": ("POST", "/reset", {"json": {"seed": 2**63}}, 400, "bad_value", "seed"),
    "true for a seed": ("POST", "/reset", {"json": {"seed": True}}, 400, "bad_value", "seed"),
    "bad id": ("GET", "/snake/a%20b", {}, 400, "bad_value", "id"),
    "long id": ("GET", f"/snake/{'a' * 65}", {}, 400, "bad_value", "id"),
    "some lines": ("GET", "/snake/a?lines=some", {}, 400, "bad_value", "lines"),
    "unknown path": ("GET", "/snakes", {}, 404, "unknown_path", None),
    "two slashes": ("GET", "/snake//move", {}, 404, "unknown_path", None),
    "no id": ("GET", "/snake/", {}, 400, "bad_value", "id"),
    "no id to delete": ("DELETE", "/snake/", {}, 405, "wrong_method", None),
    "wrong method": ("PUT", "/state", {}, 405, "wrong_method", None),
    "a large body": ("POST", "/reset", {"content": b" " * (MAX_BODY_BYTES + 1), **JSON}, 413, "too_large", None),
    "a large body in parts": (
        "POST",
        "/reset",
        {"content": iter([b" " * MAX_BODY_BYTES] * 3), **JSON},
        413,
        "too_large",
        None,
    ),
}


@pytest.mark.parametrize(("method", "path", "body", "status", "code", "field"), WRONG.values(), ids=WRONG)
def test_mistakes_are_problems(
    http: httpx.Client, method: str, path: str, body: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    with http.stream("GET", "/snake/a"):
        answer = http.request(method, path, **body)
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
        assert problem.get("field") == field
        assert problem["error"] == problem["detail"]
        assert answer.headers.get("allow") == ("GET" if status == 405 else None)


def test_head_does_not_join(http: httpx.Client) -> None:
    answer = http.head("/snake/a")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert http.get("/").json()["agents"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(number: signal.Signals) -> None:
    with mock_env_process("--delay", "3600") as (process, url), httpx.stream("GET", f"{url}/snake/anna") as stream:
        texts = stream.iter_lines()
        next(texts)
        process.send_signal(number)
        assert [json.loads(text)["game_over"] for text in texts] == [True]
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 0
    assert (output, errors) == ("", ""), "stdout holds the address only, and nothing is wrong"


def test_the_first_line_says_where(unused_port: int) -> None:
    with mock_env_process("--port", str(unused_port), "--access-log") as (process, url):
        assert url == f"http://127.0.0.1:{unused_port}"
        assert httpx.get(url).json()["service"] == "rattle mock-env"
        second = subprocess.run([*MOCK_ENV, "--port", str(unused_port)], capture_output=True, text=True, check=False)
        process.terminate()
        _, log = process.communicate(timeout=240)
    told = [(entry["event"], entry["fields"]) for entry in map(json.loads, log.splitlines())]
    assert told == [
        ("serving", {"address": url}),
        ("request_answered", {"client": "127.0.0.1", "request": "GET / HTTP/1.1", "status": "200"}),
        ("stopped", {}),
    ]
    assert second.returncode == 1
    assert second.stderr.startswith(f"Error: cannot listen on 127.0.0.1 port {unused_port}")


@pytest.fixture
def unused_port() -> int:
    return free_port()


def test_an_unknown_fault_is_one_clear_line() -> None:
    done = subprocess.run([*MOCK_ENV, "--fault", "lazy"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: there is no fault 'lazy': 'rattle mock-env --help' lists them\n"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::", "::1", "0.0.0.0"])  # noqa: S104
def test_the_address_it_says_can_be_asked(host: str) -> None:
    with MockEnv(MockSettings(host=host, security=SecuritySection(trust_network=True))) as env:
        assert httpx.get(f"{env.url}/", trust_env=False).status_code == 200


def test_connections_that_ask_nothing_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 8)
    head = b"POST /reset HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    with MockEnv(MockSettings(snakes=1)) as env, httpx.Client(base_url=env.url, timeout=60) as client:
        port = int(env.url.rpartition(":")[2])
        idle = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(10)]
        for handle in idle[5:]:
            handle.sendall(head)
        with client.stream("GET", "/snake/anna") as stream:
            for _ in range(20):
                assert client.get("/").status_code == 200
            assert json.loads(next(stream.iter_lines()))["tick"] == 0, "what is being answered stays"
        assert idle[0].recv(1) == b""
        for handle in idle:
            handle.close()


def test_a_large_body_is_not_kept_while_it_is_dropped(http: httpx.Client) -> None:
    head = (
        b"POST /reset HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 15900000\r\n\r\n"
    )
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=60) as handle:
        tracemalloc.start()
        handle.sendall(head + bytes(9_000_000))
        assert handle.recv(2**16).startswith(b"HTTP/1.1 413")
        handle.shutdown(socket.SHUT_WR)
        while handle.recv(2**16):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most - 9_000_000 * 2 < 4_000_000
