"""HTTP/1.1 with asyncio: requests over kept connections, and answers that stream.

The popular clients take a millisecond for a request, too long for hundreds of agents that move ten times a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from rattle.clients.addresses import broken_connection, no_connection, read_address, why_of
from rattle.clients.connections import MAX_ANSWER_BYTES
from rattle.clients.errors import BadAnswer, ClientError, ConnectionBroken, NoAnswer, NotSent, NotTrusted
from rattle.tls import tls_context

#: The longest head of an answer that is taken, in bytes.
MAX_HEAD_BYTES = 2**16
#: A connection is not read from while so many bytes of its answer wait to be taken.
_WAITING_BYTES = 2**16


class AsyncHttp:
    """Requests to one server; closing it closes its connections, those of streams too."""

    def __init__(self, url: str, connect_seconds: float, answer_seconds: float) -> None:
        self._address = address = read_address(url)
        self._url = address.url
        headers = {"Host": address.authority, "Accept": "*/*"} | address.headers
        self._head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._has_answered = False
        self._idle: list[AsyncConnection] = []
        self._open: set[AsyncConnection] = set()

    async def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers by their lower-case names, and body of a whole answer.

        Raises NotSent, NoAnswer, ConnectionBroken, or BadAnswer for one that cannot be decoded.
        """
        connection = await self.begin(method, path, body)
        try:
            content = await connection.rest(self._answer_seconds)
        finally:
            self.give_back(connection)
        return connection.status, connection.headers, content

    async def begin(self, method: str, path: str, body: bytes | None = None) -> AsyncConnection:
        """Return the connection over which an answer has begun to come; raises as `ask`. To be given back."""
        connection = await self._connected()
        try:
            connection.send(self._request(method, path, body))
            await connection.head(self._answer_seconds)
        except ConnectionBroken as error:
            self.give_back(connection)
            raise await self._broken(error) from None
        except BaseException:
            self.give_back(connection)
            raise
        self._has_answered = True
        return connection

    async def _broken(self, error: ConnectionBroken) -> ClientError:
        """Return the error for a connection that broke before an answer came, or took too long to answer."""
        if isinstance(error, NoAnswer) or self._has_answered:
            return error
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        found = await asyncio.to_thread(broken_connection, self._address, cause, is_first=True)
        return found if isinstance(found, NotTrusted) else error

    def give_back(self, connection: AsyncConnection) -> None:
        """Keep a connection for other requests if its answer has been read to the end, else close it."""
        if connection.is_reusable:
            self._idle.append(connection)
        else:
            connection.close()
            self._open.discard(connection)

    async def aclose(self) -> None:
        """Close all connections."""
        for connection in self._open:
            connection.close()
        self._open.clear()
        self._idle.clear()

    async def _connected(self) -> AsyncConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
            self._open.discard(connection)
        loop, tls = asyncio.get_running_loop(), tls_context() if self._address.tls else None
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: AsyncConnection(self._url), self._address.host, self._address.port, ssl=tls
                )
        except TimeoutError:
            raise NotSent(f"no connection to {self._url}: it takes too long") from None
        except OSError as error:
            raise no_connection(self._url, error, why_of(error), NotSent) from None
        self._open.add(connection)
        return connection

    def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        head = f"{method} {self._address.prefix}{path} HTTP/1.1\r\n{self._head}"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"{head}\r\n".encode("latin-1") + (body or b"")


class AsyncConnection(asyncio.Protocol):
    """One connection: a request at a time, and its answer as it comes."""

    # Of the answer.
    status: int
    headers: dict[str, str]
    _has_head: bool
    _says_its_end: bool
    _complete: bool
    _keeps_alive: bool

    def __init__(self, url: str) -> None:
        self._url = url
        self._transport: asyncio.Transport | None = None
        self._error: ClientError | None = None  # for anyone who waits or comes later
        self._waiter: asyncio.Future[None] | None = None
        self._waiting = bytearray()  # of the body
        self._begin()
        self._complete = self._keeps_alive = True

    @property
    def is_reusable(self) -> bool:
        """Say whether another request may be sent."""
        open_still = self._transport is not None and self._error is None
        return open_still and self._complete and self._keeps_alive and not self._waiting

    def send(self, request: bytes) -> None:
        """Send a request."""
        self._begin()
        if self._transport is not None:
            self._transport.write(request)

    async def head(self, seconds: float) -> None:
        """Wait for status and headers; raises NoAnswer, ConnectionBroken, BadAnswer."""
        await self._wait(lambda: self._has_head, seconds)
        encoding = self.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise BadAnswer(f"{self._url} sent what cannot be decoded: {encoding} was not asked for")

    async def part(self, seconds: float) -> bytes:
        """Return the next part of the body, empty after the last; raises NoAnswer, ConnectionBroken."""
        await self._wait(lambda: bool(self._waiting) or self._complete, seconds)
        part, self._waiting = bytes(self._waiting), bytearray()
        if self._transport is not None and self._error is None:
            self._transport.resume_reading()
        return part

    async def rest(self, seconds: float) -> bytes:
        """Return the body to its end; `seconds` are for each part. Raises BadAnswer too, for one that is too large."""
        body = await self.part(seconds)
        while not self._complete or self._waiting:
            body += await self.part(seconds)
            if len(body) > MAX_ANSWER_BYTES:
                raise BadAnswer(f"{self._url} sent an answer of more than {MAX_ANSWER_BYTES} bytes")
        return body

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, as the following."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        if not self._has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"this is not HTTP: {why_of(error)}")
        if not self._has_head and self._head_bytes > MAX_HEAD_BYTES:
            self._fail(f"the head of its answer is longer than {MAX_HEAD_BYTES} bytes")
        if len(self._waiting) > _WAITING_BYTES and self._transport is not None:
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """An answer that does not say where it ends, ends here."""
        self._complete |= error is None and self._has_head and not self._says_its_end
        self._fail(why_of(error) if error else "it was closed", error)
        self._wake()

    def on_message_begin(self) -> None:
        """Called by the parser, as the following."""
        if self._complete:  # what comes now was not asked for
            self._keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a header."""
        if not self._has_head:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is there."""
        if not self._has_head:
            self.status = self._parser.get_status_code()
            self._says_its_end = not self.headers.keys().isdisjoint(("content-length", "transfer-encoding"))
            self._has_head = True

    def on_body(self, body: bytes) -> None:
        """Take in a part of the body."""
        if not self._complete:
            self._waiting += body

    def on_message_complete(self) -> None:
        """The answer is there."""
        self._keeps_alive = not self._complete and self._parser.should_keep_alive()
        self._complete = True

    def _begin(self) -> None:
        """Make ready for an answer."""
        self._parser = httptools.HttpResponseParser(self)
        self.headers = {}
        self._head_bytes = 0
        self._has_head = self._says_its_end = self._complete = self._keeps_alive = False

    def _fail(self, why: str, cause: Exception | None = None) -> None:
        if self._error is None:
            self._error = ConnectionBroken(f"{self._url} broke the connection: {why}")
            self._error.__cause__ = cause
        self.close()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        if condition():
            return
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    if self._error is not None:
                        raise self._error
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
        except TimeoutError:
            raise NoAnswer(f"{self._url} took too long to answer") from None
