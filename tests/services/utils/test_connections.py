"""Connections that are silent, talk too much or read nothing are closed; those that may wait are not."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl

from rattle.services.utils import connections
from rattle.services.utils.asgi import Receive, Scope, Send, answer, peer_of
from rattle.services.utils.peers import Connections
from rattle.services.utils.serving import server_config
from rattle.services.utils.sockets import listen

LARGE = 2**24
GONE = threading.Event()  # a client of /waiting has gone


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer shortly, with much, or with a stream of much that never ends by itself."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "bytes": bytes(LARGE)})
    elif scope["path"] == "/peer":
        await answer(send, 200, "text/plain", peer_of(scope).encode())
    elif scope["path"] == "/lines":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"two\n"})
    elif scope["path"] == "/waiting":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"for nobody", "more_body": True})
        GONE.set()
    elif scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(LARGE), "more_body": True})
        await send({"type": "http.response.body", "body": b"the end"})
    else:
        await answer(send, 200, "text/plain", bytes(LARGE) if scope["path"] == "/large" else b"short")


class Served:
    """Where it listens, and its open connections."""

    def __init__(self, server: uvicorn.Server, port: int) -> None:
        self.server = server
        self.port = port

    @contextmanager
    def connect(self, sent: bytes, receive_buffer: int | None = None) -> Iterator[socket.socket]:
        with socket.socket() as handle:
            handle.settimeout(60)
            if receive_buffer is not None:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            handle.connect(("127.0.0.1", self.port))
            handle.sendall(sent)
            yield handle


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the service wait for nobody; where it must not hang up, a busy machine would be too slow for that."""
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.3)


@pytest.fixture
def served() -> Iterator[Served]:
    listener = listen("127.0.0.1", 0)
    config = server_config(app, 2**20)
    config.log_level = "critical"
    config.ws_ping_interval = 0.05
    if config.ws_ping_timeout is not None:
        config.ws_ping_timeout = 0.05
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)

    def work() -> None:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve([listener]))

    thread = threading.Thread(target=work)
    thread.start()
    yield Served(server, listener.getsockname()[1])
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


def ended(handle: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    parts = []
    try:
        while part := handle.recv(2**16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def answer_of(handle: socket.socket) -> bytes:
    """Return the answer that ends with what the service says."""
    answer = b""
    while not answer.endswith(b"short"):
        part = handle.recv(2**16)
        assert part, f"closed after {answer!r}"
        answer += part
    return answer


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("begun", [b"", b"\r\n", b"G", b"GET / HTTP/1.1\r\nHost: x\r\nX-Y"])
def test_a_request_that_is_never_complete(served: Served, begun: bytes) -> None:
    with served.connect(begun) as handle:
        assert ended(handle) == b""


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("begun", [b"\r\n", b"GET / HT"])
def test_the_second_request_that_is_never_complete(served: Served, begun: bytes) -> None:
    with served.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as handle:
        assert answer_of(handle).endswith(b"short")
        handle.sendall(begun)
        assert ended(handle) == b""


@pytest.mark.usefixtures("impatient")
def test_a_head_that_comes_in_drips_has_no_more_time(served: Served) -> None:
    with served.connect(b"GET / HTTP/1.1\r\n") as handle:
        handle.settimeout(0.02)
        for _ in range(1000):
            try:
                handle.sendall(b"X: y\r\n")
                if handle.recv(10) == b"":
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    pytest.fail("it waits for ever")


def test_a_head_that_is_too_large_is_refused(served: Served) -> None:
    with served.connect(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (connections.HEAD_BYTES + 1)) as handle:
        head, _, body = ended(handle).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert json.loads(body)["code"] == "bad_request"
    almost = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (connections.HEAD_BYTES - 100)
    with served.connect(almost) as handle:
        handle.sendall(b"\r\n\r\n")
        assert handle.recv(2**16).startswith(b"HTTP/1.1 200")


def test_bodies_in_small_chunks_and_many_requests_are_no_large_heads(served: Served) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with served.connect(b"") as handle:
        for _ in range(3):
            handle.sendall(head + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
            assert answer_of(handle).startswith(b"HTTP/1.1 200")
    with served.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5000 + b"GET / HTTP/1.0\r\n\r\n") as handle:
        assert ended(handle).count(b"HTTP/1.1 200") == 5001


def test_garbage_after_a_request_does_not_fall_into_its_answer(served: Served) -> None:
    with served.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n\x00\x01garbage") as handle:
        assert b"400" not in ended(handle)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("path", [b"/large", b"/"])
def test_an_answer_that_is_never_read_is_not_kept(served: Served, path: bytes) -> None:
    ask = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    with served.connect(ask * (1 if path == b"/large" else 50_000), 4096):
        gone(served)


@pytest.mark.usefixtures("impatient")
def test_a_stream_may_be_read_as_late_as_one_likes(served: Served) -> None:
    with served.connect(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n", 4096) as handle:
        threading.Event().wait(1.5)  # several times what a whole answer is kept for
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):
            rest += handle.recv(2**20)
        assert rest.endswith(b"7\r\nthe end\r\n0\r\n\r\n")


@pytest.mark.usefixtures("impatient")
def test_a_websocket_whose_answers_are_never_read_is_broken_off(served: Served) -> None:
    ask = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with served.connect(ask, 4096) as handle:
        assert handle.recv(12) == b"HTTP/1.1 101"
        threading.Event().wait(0.6)  # a WebSocket may be silent, and leave pings unanswered
        assert len(served.server.server_state.connections) == 1
        handle.sendall(b"\x82\x81\x00\x00\x00\x00x")
        gone(served)


def gone(served: Served) -> None:
    """Wait until the server has closed every connection."""
    waiting: Any = threading.Event()
    for _ in range(6000):
        if not served.server.server_state.connections:
            return
        waiting.wait(0.01)
    pytest.fail("a connection is still open")


@pytest.mark.parametrize("behind", [0, 1, 3])
def test_a_request_learns_that_its_client_has_gone(
    served: Served, behind: int, caplog: pytest.LogCaptureFixture
) -> None:
    GONE.clear()
    request = b"GET /waiting HTTP/1.1\r\nHost: x\r\n\r\n"
    with served.connect(request + behind * b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as handle:
        received = b""
        while b"begun" not in received:
            received += handle.recv(2**16)
    assert GONE.wait(60)
    gone(served)
    assert not caplog.records


def test_requests_in_line_are_answered_in_order(served: Served) -> None:
    line = b"GET /lines HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with served.connect(line + b"GET /lines HTTP/1.0\r\n\r\n") as handle:
        answers = ended(handle)
    assert answers.count(b"HTTP/1.1 200") == 3
    assert answers.index(b"two") < answers.index(b"short") < answers.rindex(b"one")


def test_an_old_client_gets_no_chunks(served: Served) -> None:
    with served.connect(b"GET /lines HTTP/1.0\r\n\r\n") as handle:
        head, _, body = ended(handle).partition(b"\r\n\r\n")
    assert body == b"one\ntwo\n"
    assert b"transfer-encoding" not in head.lower()
    with served.connect(b"GET / HTTP/1.0\r\n\r\n") as handle:
        assert ended(handle).endswith(b"content-length: 5\r\nconnection: close\r\n\r\nshort")


@pytest.mark.parametrize("hosts", [b"", b"Host: x\r\nHost: y\r\n"])
def test_a_request_has_one_host(served: Served, hosts: bytes) -> None:
    with served.connect(b"GET / HTTP/1.1\r\n" + hosts + b"\r\n") as handle:
        head, _, body = ended(handle).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert "one Host header" in json.loads(body)["detail"]


def test_nobody_invents_the_address_of_a_client(served: Served) -> None:
    invented = b"X-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\nConnection: close\r\n"
    with served.connect(b"GET /peer HTTP/1.1\r\nHost: x\r\n" + invented + b"\r\n") as handle:
        assert ended(handle).endswith(b"\r\n\r\n127.0.0.1")


def test_every_connection_is_counted_once_and_no_more_when_it_has_gone(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Connections(1000)
    monkeypatch.setattr(connections, "CONNECTIONS", counted)
    head = b"GET / HTTP/1.1\r\nHost: x\r\n"
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    with (
        served.connect(head + upgrade + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n") as socket_,
        served.connect(head + b"\r\n") as asking,
        served.connect(b"nonsense\r\n\r\n") as refused,
    ):
        assert socket_.recv(12) == b"HTTP/1.1 101"
        assert ended(refused).startswith(b"HTTP/1.1 400")
        assert answer_of(asking).endswith(b"short")
        assert counted.used == 2
        socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it ends with a reset
    gone(served)
    assert (counted.used, counted.have_room_for("127.0.0.1")) == (0, True)


def test_the_server_has_what_our_connections_rely_on() -> None:
    protocol, cycle = httptools_impl.HttpToolsProtocol, httptools_impl.RequestResponseCycle
    ours = [
        "connection_made",
        "connection_lost",
        "data_received",
        "on_headers_complete",
        "on_body",
        "on_message_complete",
        "shutdown",
        "on_response_complete",
        "handle_websocket_upgrade",
        "send_400_response",
        "timeout_keep_alive_handler",
    ]
    missing = [name for name in ours if not hasattr(protocol, name)]
    missing += [name for name in ("receive", "send") if not hasattr(cycle, name)]
    state = set(cycle.__init__.__code__.co_names)
    used = "scope transport message_event disconnected keep_alive more_body response_started response_complete"
    missing += sorted({*used.split(), "chunked_encoding", "expected_content_length"} - state)
    assert not missing, f"uvicorn {uvicorn.__version__} lacks {missing}: see services/utils/connections.py"
