"""The small HTTP client: what real clients of sockets must get right."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.clients.async_http import MAX_HEAD_BYTES, AsyncConnection, AsyncHttp
from rattle.clients.errors import BadAnswer, ClientError, ConnectionBroken, NoAnswer

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"


async def serving(answer: Answer, use: Callable[[AsyncHttp], Awaitable[None]]) -> int:
    """Have a client use a server that answers each connection so; returns how many there were."""
    connections = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            await answer(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        http = AsyncHttp(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/under", 60.0, 60.0)
        await use(http)
        await http.aclose()
    return connections


def canned(*answers: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for content in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(content)
            await writer.drain()

    return answer


async def ask_three_times(http: AsyncHttp) -> None:
    for _ in range(3):
        status, headers, body = await http.ask("GET", "/hello")
        assert (status, body) == (200, b"hi")
        assert headers.keys() & {"content-length", "transfer-encoding"}


@pytest.mark.parametrize("content", [PLAIN, CHUNKED], ids=["length", "chunks"])
def test_a_connection_is_kept_for_the_next_request(content: bytes) -> None:
    assert asyncio.run(serving(canned(content, content, content), ask_three_times)) == 1


@pytest.mark.parametrize(
    "content",
    [PLAIN.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), PLAIN.replace(b"1.1", b"1.0"), PLAIN + PLAIN],
    ids=["said so", "an old server", "more than was asked for"],
)
def test_a_connection_that_is_no_good_is_not_kept(content: bytes) -> None:
    assert asyncio.run(serving(canned(content), ask_three_times)) == 3


def test_a_kept_connection_that_was_closed_meanwhile_is_not_used() -> None:
    closed = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await canned(PLAIN)(reader, writer)
        writer.close()
        closed.set()

    async def use(http: AsyncHttp) -> None:
        for _ in range(3):
            closed.clear()
            assert (await http.ask("GET", "/"))[2] == b"hi"
            await closed.wait()
            while any(connection.is_reusable for connection in http._idle):
                await asyncio.sleep(0)

    assert asyncio.run(serving(answer, use)) == 3


def test_a_request_says_what_it_must() -> None:
    seen = b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen = await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(4)
        writer.write(PLAIN)

    async def use(http: AsyncHttp) -> None:
        await http.ask("POST", "/path?x=1", b"body")

    asyncio.run(serving(answer, use))
    first, *headers = seen.decode().split("\r\n")
    assert first == "POST /under/path?x=1 HTTP/1.1"
    assert headers[0].startswith("Host: 127.0.0.1:")
    assert headers[1:] == ["Accept: */*", "Content-Type: application/json", "Content-Length: 4", "", "body"]


@settings(max_examples=50)
@given(
    cuts=st.lists(st.integers(1, len(CHUNKED) - 1), unique=True).map(sorted), content=st.sampled_from([PLAIN, CHUNKED])
)
def test_an_answer_may_come_in_any_pieces(cuts: list[int], content: bytes) -> None:
    connection = AsyncConnection("http://server")
    connection.send(b"")
    bounds = [0, *(cut for cut in cuts if cut < len(content)), len(content)]
    for start, stop in pairwise(bounds):
        connection.data_received(content[start:stop])

    async def read() -> bytes:
        await connection.head(1.0)
        return await connection.rest(1.0)

    assert asyncio.run(read()) == b"hi"
    assert connection.status == 200


def test_a_server_that_sends_more_than_is_read_must_wait() -> None:
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(2000):
            writer.write(bytes(2**16))
            await writer.drain()
            sent += 2**16

    async def use(http: AsyncHttp) -> None:
        connection = await http.begin("GET", "/")
        last = -1
        while sent != last:  # until it waits
            last = sent
            await asyncio.sleep(0.2)
        assert sent < 2000 * 2**16
        assert sum([len(await connection.part(60.0)) for _ in range(20)]) > 2**16
        while sent == last:
            await connection.part(60.0)
        http.give_back(connection)

    asyncio.run(serving(answer, use))


BAD: dict[str, tuple[bytes, type[ClientError], str]] = {
    "endless head": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_HEAD_BYTES, ConnectionBroken, "head of its answer"),
    "cut": (PLAIN[:-1], ConnectionBroken, "it was closed"),
    "cut chunks": (CHUNKED[:-4], ConnectionBroken, "it was closed"),
    "not HTTP": (b"SSH-2.0\r\n\r\n", ConnectionBroken, "this is not HTTP"),
    "compressed": (PLAIN.replace(b"OK\r\n", b"OK\r\nContent-Encoding: br\r\n"), BadAnswer, "cannot be decoded: br"),
}


@pytest.mark.parametrize(("content", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_answers(content: bytes, kind: type[ClientError], message: str) -> None:
    async def use(http: AsyncHttp) -> None:
        with pytest.raises(kind, match=message):
            await http.ask("GET", "/")
        assert not http._open

    asyncio.run(serving(canned(content), use))


def test_a_server_that_stops_in_the_middle_is_not_waited_for_for_ever() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN[:-1])
        await reader.read()

    async def use(http: AsyncHttp) -> None:
        connection = await http.begin("GET", "/")
        assert await connection.part(60.0) == b"h"
        with pytest.raises(NoAnswer, match="too long"):
            await connection.part(0.05)
        http.give_back(connection)

    asyncio.run(serving(answer, use))


@pytest.mark.parametrize("url", ["http://", "http://host:port", "http://[::1"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ClientError, match=r"is no server's address|has a port that is not a number"):
        AsyncHttp(url, 1.0, 1.0)
