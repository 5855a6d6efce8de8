"""Bodies and messages are held to a sum over all connections; small ones find room beside large ones."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from select import select

import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from rattle.services.utils import budget, connections
from rattle.services.utils.asgi import Receive, Scope, Send, answer, answer_problem, read_body
from rattle.services.utils.budget import ByteBudget, Shares
from rattle.services.utils.serving import server_config
from rattle.services.utils.sockets import listen
from rattle.wire.problems import RequestError

LIMIT, LARGE, PATIENCE = 2**22, 2**20, 60.0
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_large_requests_leave_room_for_small_ones() -> None:
    whole = ByteBudget(2**20)
    assert whole.take(2**19, 0)
    assert whole.take(2**18, 2**19)
    assert not whole.take(1, 2**16)
    assert all(whole.take(2**16, 0) for _ in range(4))
    assert not whole.take(1, 0)
    whole.give_back(2**16)
    assert whole.take(2**16 - 1, 1)
    assert whole.held == 2**20 - 1


def test_memory_is_given_back_once_after_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(budget, "give_memory_back_soon", lambda: given.append(1))
    whole = ByteBudget(2**28)
    with whole.holding(2**25):
        assert whole.take(2**24, 0)
    whole.give_back(2**24)
    assert given == [], "that was no burst"
    with whole.holding(2**26):
        assert given == []
    assert given == [1]
    with whole.holding(2**20):
        pass
    whole.note(2**27)
    assert given == [1, 1]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer how long a body is; messages of a WebSocket likewise."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(len(message["bytes"]))})
        return
    try:
        body = await read_body(scope, receive, 2 * LARGE)
        await answer(send, 200, "text/plain", str(len(body)).encode())
    except RequestError as error:
        await answer_problem(send, error)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(budget, "BUDGET", ByteBudget(LIMIT))
    listener = listen("127.0.0.1", 0)
    config = server_config(app, 4 * LARGE)
    config.log_level, config.timeout_graceful_shutdown = "critical", 1
    server = uvicorn.Server(config)

    def work() -> None:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve([listener]))

    thread = threading.Thread(target=work)
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert budget.BUDGET.held == 0


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def unfinished(port: int) -> socket.socket:
    """Begin a large request, and do not finish it."""
    handle = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LARGE}\r\n\r\n"
    handle.sendall(head.encode() + bytes(LARGE - 1))
    return handle


def ask(port: int, size: int) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("POST", "/", bytes(size))
    answered = connection.getresponse()
    try:
        return answered.status, answered.read()
    finally:
        connection.close()


def test_bodies_that_are_not_finished_leave_room_for_others_and_give_it_back(port: int) -> None:
    handles = [unfinished(port) for _ in range(3)]
    until(lambda: budget.BUDGET.held == 3 * (LARGE - 1))
    status, said = ask(port, LARGE)
    assert (status, b'"code":"full"' in said) == (503, True)
    assert ask(port, 2**15) == (200, b"32768")
    handles[0].sendall(b"\0")
    assert handles[0].recv(2**16).startswith(b"HTTP/1.1 200")
    assert ask(port, LARGE) == (200, str(LARGE).encode())
    until(lambda: budget.BUDGET.held == 2 * (LARGE - 1))
    for handle in handles:
        handle.close()
    until(lambda: budget.BUDGET.held == 0)


def test_a_body_for_which_there_is_no_room_any_more_is_dropped(port: int) -> None:
    with unfinished(port) as one, unfinished(port) as two, unfinished(port) as three:
        until(lambda: budget.BUDGET.held == 3 * (LARGE - 1))  # of four at the same time, two might be refused
        with unfinished(port) as last:
            answered, _, _ = select([one, two, three, last], [], [], PATIENCE)
            assert answered == [last]
            assert last.recv(2**16).startswith(b"HTTP/1.1 503")
        until(lambda: budget.BUDGET.held == 3 * (LARGE - 1))


def test_long_messages_of_websockets_count_and_short_ones_do_not(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}", max_size=None) as one, connect(f"ws://127.0.0.1:{port}") as other:
        for size in (2 * LARGE, 5, 2**15):
            one.send(bytes(size))
            assert one.recv() == str(size)
        until(lambda: budget.BUDGET.held == 0)
        with unfinished(port), unfinished(port), unfinished(port):
            until(lambda: budget.BUDGET.held == 3 * (LARGE - 1))
            with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012 (it may end while it is sent)
                one.send(bytes(LARGE))
                one.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1013
            other.send(bytes(2**15))
            assert other.recv() == "32768"


def test_a_long_message_that_is_not_finished_in_time_ends_its_websocket(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", 2)
    with connect(f"ws://127.0.0.1:{port}") as one, connect(f"ws://127.0.0.1:{port}") as other:
        other.send(bytes(2**17))  # is complete, and so has no time limit any more
        assert other.recv(PATIENCE) == str(2**17)
        one.socket.sendall(b"\x82\xff" + LARGE.to_bytes(8, "big") + bytes(4) + bytes(LARGE - 1))
        with pytest.raises(ConnectionClosed) as closed:
            one.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason[:12]) == (1008, "the message ")
        until(lambda: budget.BUDGET.held == 0)
        other.send(bytes(5))
        assert other.recv(PATIENCE) == "5"


@pytest.mark.parametrize(
    ("start", "size", "code"),
    [
        (b"\x82\xff" + (LARGE).to_bytes(8, "big") + bytes(4), LARGE, 1013),
        (b"\x82\xff" + (8 * LARGE).to_bytes(8, "big") + bytes(4), 2 * LARGE, 1009),
        (b"\x82\x7f" + (2 * LARGE).to_bytes(8, "big"), 2 * LARGE, 1002),  # without a mask
    ],
    ids=["no room", "too large", "no frame"],
)
def test_a_client_that_still_sends_reads_why_its_websocket_ended(port: int, start: bytes, size: int, code: int) -> None:
    with ExitStack() as others:
        for _ in range(3 if code == 1013 else 0):
            others.enter_context(unfinished(port))
        until(lambda: budget.BUDGET.held == (3 * (LARGE - 1) if code == 1013 else 0))
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as one:
            one.sendall(UPGRADE)
            assert one.recv(2**16).startswith(b"HTTP/1.1 101")
            one.sendall(start + bytes(2**17))
            time.sleep(0.2)  # the connection has been ended, and the client does not know
            one.sendall(bytes(size - 2**17))
            read = b"".join(iter(lambda: one.recv(2**16), b""))
        assert read[:1] == b"\x88"
        assert int.from_bytes(read[2:4], "big") == code


def test_pings_hold_nothing(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}") as one:
        one.socket.sendall((b"\x89\xfd" + bytes(4) + bytes(125)) * 2000)
        assert one.ping().wait(PATIENCE)
        assert budget.BUDGET.held == 0
        one.send(bytes(5))
        assert one.recv(PATIENCE) == "5"


def test_a_peer_leaves_an_eighth_of_what_others_leave() -> None:
    places = Shares(64, "sessions")
    for _ in range(56):
        places.take("one")
    with pytest.raises(RequestError, match="one has 56 of 64 sessions in use"):
        places.take("one")
    for _ in range(7):
        places.take("two")
    with pytest.raises(RequestError, match="two has 7 of 64"):
        places.take("two")
    places.take("three")
    with pytest.raises(RequestError, match="all 64 sessions are in use"):
        places.take("four")
    places.give_back("one")
    with places.holding("four"), pytest.raises(RequestError):
        places.take("one")
    places.take("five")


def test_of_few_places_one_peer_may_hold_all() -> None:
    places = Shares(7, "sessions")
    for _ in range(7):
        places.take("one")
    with pytest.raises(RequestError, match="all 7"):
        places.take("two")
