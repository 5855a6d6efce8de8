"""Worlds that take long or fail: others are not delayed, clients of one session wait, and the service lives on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import msgspec
import numpy as np
import pytest

from rattle.clients.remote_worlds import RemoteWorlds
from rattle.envs.errors import CannotReplay, EnvironmentFailed
from tests.services.env.strange_environments import Failing, Held
from tests.services.env.vector_server import Answer, VectorServer, eventually, serving

MODULE = "tests.services.env.strange_environments"
HELD = 2  # the action that waits for the test


@pytest.fixture
def server() -> Iterator[VectorServer]:
    Held.hold()
    with serving(f"env.id=gym:{MODULE}:RattleHeld-v0", "env_service.session_seconds=0.5") as running:
        try:
            yield running
        finally:
            Held.may_go_on.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        try:
            yield threads
        finally:
            Held.may_go_on.set()


def held_step(server: VectorServer, pool: ThreadPoolExecutor, session: str) -> Future[Answer]:
    step = pool.submit(server.step, session, 1, [HELD])
    assert Held.begun.wait(60)
    return step


def test_a_slow_step_delays_no_other_client_and_its_session_does_not_expire(
    server: VectorServer, pool: ThreadPoolExecutor
) -> None:
    slow = server.session(worlds=1)
    step = held_step(server, pool, slow)
    for _ in range(20):
        assert server.ask("GET", "/healthz").status == 200
    server.session(worlds=1)
    eventually(lambda: server.metric("rattle_env_sessions") == 1)  # the other has expired meanwhile
    assert not step.done()
    Held.may_go_on.set()
    assert step.result().body["step"] == 1
    assert server.ask("GET", slow).body["step"] == 1


def test_two_clients_of_one_session_wait_for_each_other(server: VectorServer, pool: ThreadPoolExecutor) -> None:
    session = server.session(worlds=1)
    first = held_step(server, pool, session)
    second = pool.submit(server.step, session, 1, [HELD])
    other = pool.submit(server.step, session, 1, [0])
    reading = pool.submit(server.ask, "GET", session)
    name = session.rpartition("/")[2]
    eventually(lambda: server.service.sessions._sessions[name].users == 4)
    assert not any(future.done() for future in (first, second, other, reading))
    Held.may_go_on.set()
    assert first.result().raw == second.result().raw  # the very same request again
    other.result().problem("wrong_step")
    assert reading.result().body["step"] == 1
    assert Held.most_running == 1
    assert server.metric("rattle_env_steps_total") == 1


def test_a_session_deleted_while_a_step_runs_is_closed_after_it(server: VectorServer, pool: ThreadPoolExecutor) -> None:
    session = server.session(worlds=1)
    step = held_step(server, pool, session)
    waiting = pool.submit(server.step, session, 2, [0])
    name = session.rpartition("/")[2]
    eventually(lambda: server.service.sessions._sessions[name].users == 2)
    made = Held.closed
    gone = pool.submit(server.ask, "DELETE", session)
    eventually(lambda: server.metric("rattle_env_sessions") == 0)
    server.ask("GET", session).problem("unknown_session")
    assert Held.closed == made
    Held.may_go_on.set()
    assert step.result().status == 200
    waiting.result().problem("unknown_session")
    assert gone.result().status == 204
    assert Held.closed == made + 1
    assert not Held.closed_while_running


def test_sessions_that_expire_are_closed_whoever_notices_first(server: VectorServer) -> None:
    before = Held.closed
    for count in range(1, 4):
        server.session(worlds=1)
        eventually(lambda: server.metric("rattle_env_sessions") == 0)
        eventually(lambda count=count: Held.closed >= before + 2 * count)  # the one that was measured, too
    assert server.service.vector.shared._uses == {}


def test_a_service_that_stops_refuses_what_comes_and_finishes_what_runs() -> None:
    Held.hold()
    with ThreadPoolExecutor(2) as pool, serving(f"env.id=gym:{MODULE}:RattleHeld-v0") as server:
        session = server.session(worlds=1)
        step = held_step(server, pool, session)
        server.service.vector.shared._closing = True
        server.ask("GET", session).problem("shutting_down")
        answer = server.ask("POST", "/v1/sessions", {"worlds": 1})
        answer.problem("shutting_down")
        assert answer.status == 503
        Held.may_go_on.set()
        assert step.result().status == 200
    assert not Held.closed_while_running


@pytest.mark.parametrize("websocket", [True, False])
def test_a_client_is_told_that_the_environment_failed(websocket: bool) -> None:
    with (
        serving(f"env.id=gym:{MODULE}:RattleFailing-v0") as server,
        closing(RemoteWorlds(server.url, 2, first_world=4, websocket=websocket)) as worlds,
    ):
        worlds.step(np.array([0, 0]))
        with pytest.raises(EnvironmentFailed, match="world 5: step raised ZeroDivisionError: the ball is gone"):
            worlds.step(np.array([0, 1]))


def test_a_state_that_is_played_another_way_is_refused_and_the_session_goes_on() -> None:
    with (
        serving(f"env.id=gym:{MODULE}:RattleWayward-v0") as server,
        closing(RemoteWorlds(server.url, 1)) as worlds,
    ):
        worlds.step(np.array([0]))
        state = worlds.state()
        worlds.step(np.array([0]))
        with pytest.raises(CannotReplay, match="went another way"):
            worlds.restore(state)
        worlds.reset(7)
        worlds.step(np.array([0]))


def test_an_environment_that_can_be_made_no_more_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(f"env.id=gym:{MODULE}:RattleFailing-v0") as server:
        monkeypatch.setattr(Failing, "reset", lambda *_, **__: 1 / 0)
        problem = server.ask("POST", "/v1/sessions", {"worlds": 1}).problem("internal")
        assert "world 0: reset raised ZeroDivisionError: division by zero in test_slow" in problem["detail"]


def test_an_environment_that_fails_ends_its_session_and_nothing_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(f"env.id=gym:{MODULE}:RattleFailing-v0") as server:
        good, bad = server.session(worlds=1), server.session(worlds=1)
        monkeypatch.setattr(Failing, "stuck", True)
        assert server.step(bad, 1, [0]).status == 200
        problem = server.step(bad, 2, [1]).problem("internal")
        assert problem["status"] == 500
        raised = f"'gym:{MODULE}:RattleFailing-v0', world 0: step raised ZeroDivisionError: the ball is gone in "
        assert problem["detail"].startswith(raised)
        server.step(bad, 2, [1]).problem("unknown_session")  # nobody knows what its worlds are now
        with server.socket(good) as one:
            one.send(msgspec.json.encode({"step": 1, "action": [1]}).decode())
            assert msgspec.json.decode(one.recv())["code"] == "internal"
            one.send(msgspec.json.encode({"step": 1, "action": [1]}).decode())
            assert msgspec.json.decode(one.recv())["code"] == "unknown_session"
        monkeypatch.setattr(Failing, "stuck", False)
        again = server.session(worlds=1)
        monkeypatch.setattr(Failing, "stuck", True)
        assert server.step(again, 1, [0]).status == 200
        assert server.ask("DELETE", again).status == 204  # although it cannot be closed
        assert server.metric("rattle_env_sessions") == 0
        assert server.metric('rattle_requests_total{api="vector",status="500"}') == 1
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    said = [record.getMessage() for record in errors]
    failures = [record for record in errors if record.getMessage().startswith("a request to the vector API failed: ")]
    assert [str(record.exc_info[1].__cause__) for record in failures] == ["the ball is gone"] * 2
    assert said.count("closing the worlds of a session failed") == 3
