"""Worlds in a server are the worlds of this process, through lost answers, restarts and nonsense."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import msgspec
import numpy as np
import pytest

from rattle.clients.addresses import read_address
from rattle.clients.errors import ClientError, ConnectionBroken, RequestRefused
from rattle.clients.remote_worlds import Patience, RemoteWorlds, ask_spec
from rattle.envs.errors import EnvError, WorldsLost
from rattle.envs.registry import make_worlds
from rattle.envs.vector import VectorWorlds
from tests.flips import FlippingProxy
from tests.processes import ServiceProcess

WORLDS = 12
ARRAYS = ("observation", "reward", "terminated", "truncated", "active", "episode")


@pytest.fixture(scope="module")
def server() -> Iterator[ServiceProcess]:
    with ServiceProcess("env", settings=("env.num_snakes=2", "env.max_steps=40")) as process:
        yield process


@pytest.fixture
def mortal() -> Iterator[ServiceProcess]:
    with ServiceProcess("env", settings=("env_service.session_seconds=2",)) as process:
        yield process


def local(seed: int = 3, worlds: int = WORLDS, first_world: int = 0, **settings: Any) -> VectorWorlds:
    return make_worlds("snake", {"num_snakes": 2, "max_steps": 40, **settings}, worlds, seed, first_world)


def assert_same(remote: RemoteWorlds, here: VectorWorlds) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(remote, name), getattr(here, name), err_msg=name)
    ended = here.terminated | here.truncated
    restarted = ended & here.active
    np.testing.assert_array_equal(remote.final_observation[restarted], here.final_observation[restarted])
    for name, values in here.final_metrics.items():
        np.testing.assert_array_equal(remote.final_metrics[name][ended], values[ended])


@pytest.mark.parametrize("websocket", [True, False])
def test_they_play_the_same_games(server: ServiceProcess, websocket: bool) -> None:
    remote, here = RemoteWorlds(server.url, WORLDS, seed=3, websocket=websocket), local()
    draw = np.random.default_rng(0)
    assert remote.spec == here.spec
    assert_same(remote, here)
    for _ in range(150):
        action = draw.integers(0, 3, remote.num_slots)
        remote.step(action)
        here.step(action)
        assert_same(remote, here)
    np.testing.assert_array_equal(remote.metrics["food"], here.metrics["food"])
    assert remote.snapshot(4) == here.snapshot(4)
    for seed in (None, 8, None):
        remote.reset(seed)
        here.reset(seed)
        assert_same(remote, here)
    remote.close()


@pytest.mark.integration
@pytest.mark.parametrize("websocket", [True, False])
def test_they_play_the_same_games_over_a_network_that_flips_bits(server: ServiceProcess, websocket: bool) -> None:
    address = read_address(server.url)
    with FlippingProxy((address.host, address.port), flips=30, share=0.15) as network:
        url = f"http://127.0.0.1:{network.port}"
        remote, here = RemoteWorlds(url, WORLDS, seed=3, websocket=websocket, patience=Patience(1.0)), local()
        draw = np.random.default_rng(0)
        for _ in range(2000):
            action = draw.integers(0, 3, remote.num_slots)
            remote.step(action)
            here.step(action)
            assert_same(remote, here)
            if not network.left:
                break
        state = remote.state()
        assert not network.left
        remote.close()
    for name, array in here.state().items():
        np.testing.assert_array_equal(state[name], array)


def test_snapshots_come_along_with_steps_while_somebody_looks(
    server: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, here = RemoteWorlds(server.url, WORLDS, seed=3), local()
    asked: list[str] = []
    ask = remote._http.ask
    monkeypatch.setattr(remote._http, "ask", lambda *request: asked.append(request[1]) or ask(*request))
    for tick in range(60):
        for worlds in (remote, here):
            worlds.step(np.full(remote.num_slots, tick % 3))
        if tick % 20 < 15:  # looks away now and then
            assert remote.snapshot(0) == here.snapshot(0)
            assert remote.snapshot(7) == here.snapshot(7)
        if tick == 30:
            remote.reset(5)
            here.reset(5)
            assert remote.snapshot(7) == here.snapshot(7)
    assert len(asked) < 15
    monkeypatch.undo()
    remote.close()


def test_any_environment_and_other_settings(server: ServiceProcess) -> None:
    remote = RemoteWorlds(server.url, 3, 5, first_world=7, options={"vision_radius": 2, "width": 20})
    here = local(5, 3, 7, vision_radius=2, width=20)
    assert remote.spec == here.spec
    assert_same(remote, here)
    remote.close()
    with ServiceProcess("env", settings=("env.id=gym:CartPole-v1",)) as carts:
        poles, own = RemoteWorlds(carts.url, 4, seed=1), make_worlds("gym:CartPole-v1", {}, 4, 1)
        for tick in range(60):
            action = np.full(4, tick % 2)
            poles.step(action)
            own.step(action)
            assert_same(poles, own)
        poles.close()


def test_a_state_goes_on_in_another_session(server: ServiceProcess) -> None:
    first, second = RemoteWorlds(server.url, WORLDS, seed=3), RemoteWorlds(server.url, WORLDS, seed=99)
    action = np.ones(first.num_slots, np.int64)
    for _ in range(7):
        first.step(action)
    second.restore(first.state())
    assert second.seed == 3
    for _ in range(30):
        first.step(action)
        second.step(action)
        assert_same(first, second)
    for worlds in (first, second):
        worlds.close()


def test_a_lost_answer_steps_no_world_twice(server: ServiceProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    remote, here = RemoteWorlds(server.url, WORLDS, seed=3), local()
    receive, broken = type(remote._steps).receive, iter(range(10**6))

    def forgetful(steps: Any) -> bytes:
        answer = receive(steps)
        if next(broken) % 3 == 0:
            steps.close()
            raise ConnectionBroken("the answer was lost on the way")
        return answer

    monkeypatch.setattr(type(remote._steps), "receive", forgetful)
    for tick in range(40):
        action = np.full(remote.num_slots, tick % 3)
        remote.step(action)
        here.step(action)
        assert_same(remote, here)
    assert next(broken) > 50
    monkeypatch.undo()
    remote.close()


@pytest.mark.parametrize("websocket", [True, False])
def test_a_killed_server_shows_as_lost_worlds(mortal: ServiceProcess, websocket: bool) -> None:
    remote = RemoteWorlds(mortal.url, 4, seed=3, websocket=websocket)
    first = remote.observation.copy()
    action = np.zeros(4, np.int64)
    for _ in range(5):
        remote.step(action)
    seen = remote.observation.copy()
    mortal.kill()
    back = threading.Timer(0.5, mortal.start)
    back.start()
    with pytest.raises(WorldsLost, match="start again"):
        remote.step(action)
    back.join()
    assert remote.truncated.all()
    assert not remote.terminated.any()
    assert not remote.reward.any()
    np.testing.assert_array_equal(remote.final_observation, seen)
    assert not np.array_equal(remote.observation, first)  # not the same games once more
    remote.step(action)
    assert not remote.truncated.any()
    remote.close()


def test_an_expired_session_shows_as_lost_worlds(mortal: ServiceProcess) -> None:
    remote = RemoteWorlds(mortal.url, 2, seed=3)
    for request in (lambda: remote.metrics, remote.state, lambda: remote.snapshot(0)):
        remote._session = "0" * 16
        with pytest.raises(WorldsLost):
            request()
    remote._session = "0" * 16
    remote.reset()
    assert not remote.truncated.any()
    remote.close()


def test_a_state_that_is_too_large_for_the_server_shows_as_lost_worlds() -> None:
    with ServiceProcess("env", settings=("env_service.max_body_bytes=2048",)) as small:
        remote = RemoteWorlds(small.url, 40, seed=3)
        with pytest.raises(WorldsLost, match=r"takes no state of [0-9,]+ bytes"):
            remote.restore(remote.state())
        remote.step(np.zeros(40, np.int64))
        remote.close()


def test_a_seed_is_played_also_when_the_session_was_gone(server: ServiceProcess) -> None:
    remote = RemoteWorlds(server.url, WORLDS, seed=3)
    remote._http.ask("DELETE", f"/v1/sessions/{remote._session}")
    remote.reset(9)
    assert_same(remote, local(9))
    remote.close()


@pytest.mark.parametrize("websocket", [True, False])
def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next(
    server: ServiceProcess, monkeypatch: pytest.MonkeyPatch, websocket: bool
) -> None:
    remote, here = RemoteWorlds(server.url, WORLDS, seed=3, websocket=websocket), local()
    actions = [np.full(remote.num_slots, tick % 3) for tick in range(8)]
    remote.step(actions[0])

    def interrupted() -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(remote, "_attempt", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remote.step(actions[1])
    for action in actions[1:]:
        remote.step(action)
    for action in actions:
        here.step(action)
    assert_same(remote, here)
    remote.step_async(actions[0])
    with pytest.raises(EnvError, match="step_wait"):
        remote.step_async(actions[1])
    remote.reset(4)  # fetches the answer first
    assert_same(remote, local(4))
    remote.close()


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Serve one answer, byte for byte, to every connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with suppress(OSError):  # the listener is shut down
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(ConnectionError):
                        connection.recv(65536)
                        connection.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n\x81\xa4step", "broke the connection"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n\xff\xff\xff", "does not fit"),
        (b"HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\n\xff\xff\xff", "without saying why"),
        (b"\x00\x01garbage\r\n\r\n", "broke the connection"),
        (b"", "broke the connection"),
    ],
)
def test_answers_that_are_none(answer: bytes, message: str) -> None:
    with answering(answer) as url, pytest.raises(ClientError, match=message):
        ask_spec(url, Patience(60, 0.2))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_server_of_a_protocol_that_is_known_is_played(version: int, server: ServiceProcess) -> None:
    spec = msgspec.to_builtins(ask_spec(server.url)) | {"protocol": f"rattle.vector/{version}"}
    body = msgspec.msgpack.encode(spec)
    with answering(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)) as url:
        if version < 3:
            assert ask_spec(url).protocol == spec["protocol"]
            return
        known = "'rattle.vector/1' and 'rattle.vector/2'"
        with pytest.raises(ClientError, match=f"speaks 'rattle.vector/3', and this version {known}"):
            ask_spec(url)


def test_a_route_that_is_missing_is_not_a_lost_session(server: ServiceProcess) -> None:
    remote = RemoteWorlds(server.url, 2, seed=3)
    with pytest.raises(RequestRefused, match="there is no"):
        remote._ask_session("GET", "/nothing")
    remote.close()


def test_a_server_that_stands_still_is_waited_for(mortal: ServiceProcess) -> None:
    remote, here = RemoteWorlds(mortal.url, 2, seed=3, patience=Patience(0.3, 60)), make_worlds("snake", {}, 2, 3)
    mortal.signal(signal.SIGSTOP)
    go_on = threading.Timer(1.0, lambda: mortal.signal(signal.SIGCONT))
    go_on.start()
    for worlds in (remote, here):
        worlds.step(np.zeros(2, np.int64))
    go_on.join()
    assert_same(remote, here)
    remote.close()


def test_a_server_that_stays_away_is_given_up(mortal: ServiceProcess) -> None:
    remote = RemoteWorlds(mortal.url, 2, seed=3, patience=Patience(1, 0.4))
    mortal.kill()
    with pytest.raises(ClientError, match=r"no connection|broke the connection"):
        remote.step(np.zeros(2, np.int64))
    remote.close()
    with pytest.raises(ClientError, match="no connection"):
        ask_spec(mortal.url, Patience(1, 0.4))


def test_requests_that_are_refused_say_why(server: ServiceProcess) -> None:
    with pytest.raises(RequestRefused, match="width") as refused:
        RemoteWorlds(server.url, 2, options={"widht": 4})
    assert (refused.value.status, refused.value.code, refused.value.field) == (400, "bad_value", "options")
    with pytest.raises(RequestRefused, match="worlds"):
        RemoteWorlds(server.url, 2**20)
    remote = RemoteWorlds(server.url, 2)
    with pytest.raises(EnvError, match="action"):
        remote.step(np.full(4, 7))
    remote.close()
    for url, message in [("localhost:5000", "http://"), ("ftp://a", "http://"), ("http://127.0.0.1:99999", "port")]:
        with pytest.raises(ClientError, match=message):
            ask_spec(url, Patience(0.1, 0.1))
    with ServiceProcess("mock-env") as mock, pytest.raises(ClientError, match="has no vector API"):
        ask_spec(mock.url)


JSON_SPEC = b'{"protocol": "rattle.vector/1"}'


@pytest.mark.parametrize("status", [200, 400, 404, 406, 415, 501])
def test_a_server_of_json_only_is_told_that_messagepack_is_needed(status: int) -> None:
    class JsonOnly(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            understands = self.headers["Accept"] == "application/json"
            self.send_response(200 if understands else status)
            self.send_header("Content-Length", str(len(JSON_SPEC)))
            self.end_headers()
            self.wfile.write(JSON_SPEC)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), JsonOnly) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(ClientError, match=r"speaks JSON only: .*MessagePack.*docs/env-api\.md"):
            ask_spec(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_whoever_waits_for_a_server_that_does_not_answer_is_told_soon(caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        patience = Patience(answer_seconds=3600, retry_seconds=3600, stop=stop)
        errors: list[ClientError] = []

        def ask() -> None:
            try:
                ask_spec(url, patience)
            except ClientError as error:
                errors.append(error)

        waiting = threading.Thread(target=ask)
        waiting.start()
        deadline = time.monotonic() + 60
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()
        silent.shutdown(socket.SHUT_RDWR)
    waiting.join()
    said = caplog.records[0].getMessage()
    assert said == f"{url} broke the connection: no answer in time: trying again for 3600 seconds"
    assert errors
