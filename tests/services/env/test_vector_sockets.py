"""Steps over WebSockets: the same messages and numbers as over HTTP, problems that keep the connection open."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.services.env.vector_server import VectorServer, array, eventually, packed, serving

LIMIT = 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[VectorServer]:
    with serving("env.width=6", "env.height=6", f"env_service.max_body_bytes={LIMIT}") as running:
        yield running


def text(message: dict[str, Any]) -> str:
    return msgspec.json.encode(message).decode()


def test_text_and_binary_messages_play_the_same_game(server: VectorServer) -> None:
    plain, binary = server.session(), server.session()
    with server.socket(plain) as one, server.socket(binary) as two:
        for number in range(1, 30):
            one.send(text({"step": number, "action": [number % 3, 0]}))
            two.send(msgspec.msgpack.encode({"step": number, "action": packed([number % 3, 0], "uint8")}))
            said, seen = one.recv(), two.recv()
            assert isinstance(said, str)
            assert isinstance(seen, bytes)
            listed, arrays = msgspec.json.decode(said), msgspec.msgpack.decode(seen)
            assert [*listed, "crc32c"] == list(arrays)
            for name in ("observation", "reward", "terminated", "truncated", "active", "episode"):
                assert listed[name] == array(arrays[name]).tolist()
        one.send(text({"step": 30, "seed": 1}))
        two.send(msgspec.msgpack.encode({"step": 30, "seed": 1}))
        beginning = msgspec.json.decode(one.recv())
        assert beginning["episode"] == [0, 0]
        assert set(beginning) == {"step", "observation", "active", "episode"}
        assert array(msgspec.msgpack.decode(two.recv())["observation"]).tolist() == beginning["observation"]


@pytest.mark.parametrize(
    ("message", "code", "field"),
    [
        ("{", "bad_request", None),
        ("[]", "bad_request", None),
        (b"", "bad_request", None),
        (b"\xc1", "bad_request", None),
        (text({"action": [0, 0]}), "bad_value", "step"),
        (text({"step": 1, "action": [0]}), "bad_value", "action"),
        (text({"step": 1, "action": None}), "bad_value", "action"),
        (text({"step": 1, "action": [0, 0], "seed": 1}), "bad_value", "seed"),
        (text({"step": 1, "seed": -1}), "bad_value", "seed"),
        (text({"step": 5}), "wrong_step", "step"),
        (msgspec.msgpack.encode({"step": 1, "action": packed([0, 9], "uint8")}), "bad_value", "action"),
        (msgspec.msgpack.encode({"step": 1, "action": [0, 0]}), "bad_value", "action"),
    ],
)
def test_a_problem_comes_as_text_and_the_connection_stays_open(
    server: VectorServer, message: str | bytes, code: str, field: str | None
) -> None:
    with server.socket(server.session()) as one:
        one.send(message)
        said = one.recv()
        assert isinstance(said, str)
        problem = msgspec.json.decode(said)
        assert (problem["code"], problem.get("field")) == (code, field)
        assert problem["status"] >= 400
        one.send(text({"step": 1, "action": [0, 0]}))
        assert msgspec.json.decode(one.recv())["step"] == 1


def test_numbers_hold_across_sockets_and_requests(server: VectorServer) -> None:
    session = server.session()
    body = {"step": 1, "action": [1, 0]}
    with server.socket(session) as one:
        one.send(text(body))
        first = one.recv()
    with server.socket(session) as again:
        again.send(text(body))
        assert again.recv() == first
        answer = server.ask("POST", f"{session}/step", text(body).encode(), {"Content-Type": "application/json"})
        assert answer.raw.decode() == first
        assert server.step(session, 2, [0, 0]).status == 200
        again.send(text({"step": 2, "action": [0, 1]}))
        assert msgspec.json.decode(again.recv())["code"] == "wrong_step"
        again.send(text({"step": 3}))
        assert msgspec.json.decode(again.recv())["step"] == 3


def test_many_messages_at_once_are_answered_in_order(server: VectorServer) -> None:
    with server.socket(server.session()) as one:
        for number in range(1, 200):
            one.send(text({"step": number, "action": [0, 0]}))
        assert [msgspec.json.decode(one.recv())["step"] for _ in range(199)] == list(range(1, 200))


@pytest.mark.parametrize("path", ["/v1/sessions/0000000000000000/ws", "/v1/sessions/ws", "/snake/anna", "/", "/ws"])
def test_what_is_no_session_is_declined_with_a_problem(
    server: VectorServer, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidStatus) as declined:
        connect(f"ws://127.0.0.1:{server.port}{path}")
    response = declined.value.response
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    problem = msgspec.json.decode(bytes(response.body))
    assert problem["code"] == ("unknown_session" if path.endswith("0/ws") else "unknown_path")
    assert server.ask("GET", "/healthz").status == 200
    assert not caplog.records  # no error of the server's for what was declined in good order


def test_a_session_itself_is_no_socket(server: VectorServer) -> None:
    session = server.session()
    for path in (session, f"{session}/step", f"{session}/ws/ws"):
        with pytest.raises(InvalidStatus):
            connect(f"ws://127.0.0.1:{server.port}{path}")


def test_a_message_that_is_too_large_closes_that_connection_only(server: VectorServer) -> None:
    session = server.session()
    with server.socket(session) as one, server.socket(session) as other:
        one.send(b"x" * (LIMIT + 1))
        with pytest.raises(ConnectionClosed) as closed:
            one.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        other.send(text({"step": 1, "action": [0, 0]}))
        assert msgspec.json.decode(other.recv())["step"] == 1


def test_a_socket_outlives_its_session_and_says_so(server: VectorServer) -> None:
    session = server.session()
    with server.socket(session) as one:
        server.ask("DELETE", session)
        one.send(text({"step": 1, "action": [0, 0]}))
        assert msgspec.json.decode(one.recv())["code"] == "unknown_session"


def test_clients_that_close_in_the_middle_do_no_harm(server: VectorServer) -> None:
    session = server.session()
    for number in range(1, 40):
        with server.socket(session) as one:
            one.send(text({"step": number, "action": [0, 0]}))
            if number % 2:
                one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.socket.shutdown(socket.SHUT_RDWR)
    eventually(lambda: server.metric("rattle_env_sockets") == 0)
    expected = server.ask("GET", session).body["step"] + 1
    assert server.step(session, expected, [0, 0]).status == 200


@pytest.mark.parametrize("goodbye", [True, False])
def test_only_a_socket_that_broke_shortens_the_life_of_its_session(server: VectorServer, goodbye: bool) -> None:
    path = server.session()
    kept = server.service.sessions._sessions[path.rpartition("/")[2]]
    with server.socket(path) as connection:
        eventually(lambda: kept.sockets == 1)
        if not goodbye:
            connection.socket.shutdown(socket.SHUT_RDWR)
    eventually(lambda: kept.sockets == 0)
    assert kept.lost is not goodbye
    assert server.ask("GET", path).status == 200
    assert not kept.lost
