"""What operators ask for: health, numbers, and the page of routes without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import pytest

from tests.services.env.vector_server import VectorServer, eventually, serving
from tests.services.measured import check_described

FAST = ("env.width=8", "env.height=8")


@pytest.fixture(scope="module")
def standing() -> Iterator[VectorServer]:
    with serving(*FAST) as running:
        yield running


def test_health_and_readiness() -> None:
    with serving(*FAST) as server:
        assert server.ask("GET", "/healthz").body == {"status": "ok"}
        assert server.ask("GET", "/readyz").body == {"status": "ready"}
        for state in ("starting", "shutting_down"):
            server.service.state = state
            answer = server.ask("GET", "/readyz")
            answer.problem(state)
            assert answer.status == 503
        assert server.ask("GET", "/healthz").status == 200


def test_the_numbers_count() -> None:
    with serving(*FAST) as server:
        assert server.metric("rattle_env_sessions") == 0
        session = server.session(worlds=5)
        other = server.session(worlds=7)
        for number in range(1, 4):
            assert server.step(session, number, [0] * 5).status == 200
        server.step(session, 9, [0] * 5).problem("wrong_step")
        server.step(session, 3, [0] * 5)  # the stored answer
        assert server.metric("rattle_env_sessions") == 2
        assert server.metric("rattle_env_worlds") == 12
        assert server.metric("rattle_env_steps_total") == 15
        assert server.metric("rattle_env_step_seconds_count") == 3
        assert server.metric('rattle_requests_total{api="vector",status="201"}') == 2
        assert server.metric('rattle_requests_total{api="vector",status="200"}') == 4
        assert server.metric('rattle_requests_total{api="vector",status="409"}') == 1
        assert server.metric('rattle_request_seconds_count{api="vector"}') == 7
        with server.socket(other) as one:
            eventually(lambda: server.metric("rattle_env_sockets") == 1)
            one.send(msgspec.json.encode({"step": 1, "action": [0] * 7}).decode())
            one.recv()
        eventually(lambda: server.metric("rattle_env_sockets") == 0)
        assert server.metric("rattle_env_steps_total") == 22
        server.ask("DELETE", other)
        assert server.metric("rattle_env_worlds") == 5
        assert server.metric("rattle_env_agents") == 0


@pytest.mark.parametrize(
    ("accept", "media_type", "last"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8", b""),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", b""),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text", b"# EOF"),
    ],
)
def test_numbers_come_in_the_form_that_is_asked_for(
    standing: VectorServer, accept: str | None, media_type: str, last: bytes
) -> None:
    headers = {} if accept is None else {"Accept": accept}
    answer = standing.ask("GET", "/metrics", headers=headers)
    assert answer.headers["content-type"].startswith(media_type)
    assert answer.raw.splitlines()[-1] == last or not last
    assert b"rattle_env_sessions 0.0" in answer.raw


def test_all_numbers_are_described(standing: VectorServer) -> None:
    standing.ask("GET", "/healthz")
    assert {"rattle_env_sessions", "rattle_env_ticks"} <= check_described(standing.ask("GET", "/metrics").raw, "env")


def test_the_page_of_routes_needs_no_network() -> None:
    with serving(*FAST) as server:
        page = server.ask("GET", "/docs")
        assert page.headers["content-type"].startswith("text/html")
        html = page.raw.decode()
        assert not re.search(r"(src|href)=[\"'](https?:)?//", html)
        loaded = re.findall(r"(?:src|href)=\"([^\"]+)\"", html)
        assert len(loaded) >= 3
        for path in loaded:
            assert server.ask("GET", path).status == 200
        assert "/openapi.json" in html
        described = server.ask("GET", "/openapi.json")
        assert described.headers["content-type"] == "application/json"
        assert described.body["openapi"].startswith("3.")


@pytest.mark.parametrize("path", ["/nothing", "/healthz/", "/v1", "/v1/spec/x", "/docs/x.js", "/v1/sessionsX", "//"])
@pytest.mark.parametrize("method", ["GET", "TRACE", "POST"])
def test_paths_that_are_not(standing: VectorServer, path: str, method: str) -> None:
    answer = standing.ask(method, path)
    answer.problem("unknown_path")
    assert answer.status == 404


@pytest.mark.parametrize(
    "path", ["/", "/state", "/v1/spec", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"]
)
@pytest.mark.parametrize("method", ["TRACE", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_methods_that_are_not(standing: VectorServer, path: str, method: str) -> None:
    answer = standing.ask(method, path)
    answer.problem("wrong_method")
    assert "GET" in answer.headers["allow"].split(", ")
    assert method not in answer.headers["allow"]
