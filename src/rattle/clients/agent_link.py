"""The connections of an agent: requests and a stream, tried again while that helps; with and without asyncio."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import httpx
import msgspec
import tenacity

from rattle.clients.addresses import broken_connection, check_status, no_connection, read_address, why_of
from rattle.clients.agent_protocol import AgentState, LineReader, Lines, StreamBroken, read_answer
from rattle.clients.async_http import AsyncConnection, AsyncHttp
from rattle.clients.errors import BadAnswer, ClientError, ConnectionBroken, NoAnswer, NotSent, RequestRefused
from rattle.clients.retries import is_temporary, retry_for, retrying_async
from rattle.tls import tls_context

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class LinkTimeouts:
    """How long a client waits, in seconds."""

    #: For a connection.
    connect: float = 5.0
    #: For an answer.
    answer: float = 10.0
    #: For the next line of a stream: longer than the server's clock may stand still.
    line: float = 60.0
    #: Altogether for tries: those that found no connection or no room (503), and questions whose answer was lost.
    retry: float = 10.0


def may_act_again(error: BaseException) -> bool:
    """Say whether a request that changes something may be sent again: the server has not acted on it."""
    return isinstance(error, NotSent) or (isinstance(error, RequestRefused) and error.status in (429, 503))


def may_ask_again(error: BaseException) -> bool:
    """Say whether a request that only asks may be sent again; a server that does not answer is not asked twice."""
    return is_temporary(error) and not isinstance(error, NoAnswer)


class _Link:
    """What both kinds share: everything but the waiting."""

    def __init__(self, url: str, limits: LinkTimeouts) -> None:
        self.address = read_address(url)
        self.url = self.address.url
        self.limits = limits

    def check(self, path: str, status: int, headers: Mapping[str, str]) -> None:
        """Raise BadAnswer for a redirect and for every other status below 400 that is not 200."""
        check_status(self.url, path, status, headers.get("location"))


def _content(body: Mapping[str, Any] | None) -> dict[str, Any]:
    if body is None:
        return {}
    return {"content": msgspec.json.encode(body), "headers": {"Content-Type": "application/json"}}


_REPEATABLE = {"GET": may_ask_again, "POST": may_act_again}


class _Held:
    """How long a stream's connection held before it broke."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._seconds = 0.0

    def begin(self) -> None:
        """A connection is being made."""
        self._since, self._seconds = None, 0.0

    def made(self) -> None:
        """It has been made."""
        self._since = time.monotonic()

    def end(self) -> None:
        """It has broken, or is closed."""
        if self._since is not None:
            self._seconds = time.monotonic() - self._since

    def has_served(self, error: ClientError, limits: LinkTimeouts) -> bool:
        """Say whether tries may begin again: they ran out of time only because a good connection was quiet for long."""
        return may_ask_again(error) and self._seconds >= limits.retry


class Link(_Link):
    """Requests and streams to one server, one at a time."""

    def __init__(self, url: str, limits: LinkTimeouts) -> None:
        super().__init__(url, limits)
        self._has_answered = False
        self.http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(limits.answer, connect=limits.connect),
            headers=self.address.headers,
            verify=tls_context() if self.address.tls else False,  # loading certificates takes longer than many a game
            trust_env=False,  # see `rattle.clients.addresses`
        )

    def stream_options(self, lines: Lines) -> dict[str, Any]:
        """Return what sets a stream apart from other requests."""
        timeout = httpx.Timeout(self.limits.answer, connect=self.limits.connect, read=self.limits.line)
        return {"timeout": timeout, "params": {"lines": "all"} if lines == "all" else {}}

    def no_answer(self, error: httpx.RequestError) -> ClientError:
        """Return the error for a request without an answer."""
        why = why_of(error)
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
            return no_connection(self.url, error, why, NotSent)
        if isinstance(error, httpx.TimeoutException):
            return NoAnswer(f"{self.url} took too long to answer")
        if isinstance(error, httpx.TransportError):
            return broken_connection(self.address, error, is_first=not self._has_answered)
        return BadAnswer(f"{self.url} sent what cannot be decoded: {why}")

    def retry_for(self, method: str) -> tenacity.Retrying:
        """Return what tries a request again."""
        return retry_for(self.limits.retry, _REPEATABLE[method])

    def ask(self, method: str, path: str, kind: type[_Answer], body: Mapping[str, Any] | None = None) -> _Answer:
        """Return the answer to a request."""
        answer: _Answer = self.retry_for(method)(self.ask_once, method, path, kind, body)
        return answer

    def ask_once(self, method: str, path: str, kind: type[_Answer], body: Mapping[str, Any] | None = None) -> _Answer:
        """Return the answer to a request that is tried once."""
        try:
            answer = self.http.request(method, path, **_content(body))
        except httpx.RequestError as error:
            raise self.no_answer(error) from None
        self._has_answered = True
        self.check(path, answer.status_code, answer.headers)
        return read_answer(answer.status_code, answer.headers, answer.content, kind)

    def states(self, snake_id: str, lines: Lines) -> Generator[AgentState, None, None]:
        """Yield a snake's states to the last."""
        with closing(_Stream(self, snake_id, lines)) as stream:
            while True:
                state = self._next(stream)
                yield state
                if state.game_over:
                    return

    def _next(self, stream: _Stream) -> AgentState:
        while True:
            try:
                state: AgentState = self.retry_for("GET")(stream.next_state)
            except ClientError as error:
                if not stream.held.has_served(error, self.limits):
                    raise
            else:
                return state


class _Stream:
    """A snake's stream over as many connections as it takes."""

    def __init__(self, link: Link, snake_id: str, lines: Lines) -> None:
        self._link, self._lines = link, lines
        self._path = f"/snake/{snake_id}"
        self._reader = LineReader(snake_id, lines)
        self._response: httpx.Response | None = None
        self.held = _Held()
        self._chunks: Iterator[bytes] = iter(())

    def next_state(self) -> AgentState:
        """Return the next state, over a new connection if there is none."""
        try:
            if self._response is None:
                self._connect()
            while (state := self._reader.next_state()) is None:
                self._reader.feed(next(self._chunks))
        except httpx.RequestError as error:
            self.close()
            raise self._link.no_answer(error) from None
        except StopIteration:
            self.close()
            raise StreamBroken(f"{self._link.url} ended a stream before the snake's life was over") from None
        return state

    def close(self) -> None:
        """Close the connection."""
        if self._response is not None:
            self.held.end()
            self._response.close()
            self._response = None

    def _connect(self) -> None:
        self.held.begin()
        if self._reader.has_begun:
            self._reader.check_still_alive(self._link.ask_once("GET", "/state", dict[str, Any]))
        request = self._link.http.build_request("GET", self._path, **self._link.stream_options(self._lines))
        response = self._link.http.send(request, stream=True)
        if response.status_code != 200:
            with closing(response):
                self._link.check(self._path, response.status_code, response.headers)
                read_answer(response.status_code, response.headers, response.read(), AgentState)
        self._reader.connect()
        self.held.made()
        self._response, self._chunks = response, response.iter_bytes()


class AsyncLink(_Link):
    """Requests and streams to one server, with asyncio."""

    def __init__(self, url: str, limits: LinkTimeouts) -> None:
        super().__init__(url, limits)
        self.http = AsyncHttp(url, limits.connect, limits.answer)

    async def ask(self, method: str, path: str, kind: type[_Answer], body: Mapping[str, Any] | None = None) -> _Answer:
        """Return the answer to a request."""
        return await self._retry_for(method, partial(self.ask_once, method, path, kind, body))

    async def ask_once(
        self, method: str, path: str, kind: type[_Answer], body: Mapping[str, Any] | None = None
    ) -> _Answer:
        """Return the answer to a request that is tried once."""
        content = None if body is None else msgspec.json.encode(body)
        status, headers, answer = await self.http.ask(method, path, content)
        self.check(path, status, headers)
        return read_answer(status, headers, answer, kind)

    async def states(self, snake_id: str, lines: Lines) -> AsyncGenerator[AgentState, None]:
        """Yield a snake's states to the last."""
        async with aclosing(AsyncStream(self, snake_id, lines)) as stream:
            while True:
                state = stream.unread() or await self._next(stream)
                yield state
                if state.game_over:
                    return

    async def follow(self, snake_id: str, lines: Lines) -> AsyncStream:
        """Return a snake's stream as soon as the server has answered, before its first line."""
        stream = AsyncStream(self, snake_id, lines)
        await self._retry_for("GET", stream.connect)
        return stream

    async def _next(self, stream: AsyncStream) -> AgentState:
        while True:
            try:
                return await self._retry_for("GET", stream.next_state)
            except ClientError as error:
                if not stream.held.has_served(error, self.limits):
                    raise

    async def _retry_for(self, method: str, attempt: Callable[[], Awaitable[_Answer]]) -> _Answer:
        try:
            return await attempt()  # nearly always: the library that tries again takes its time
        except ClientError as error:
            if not _REPEATABLE[method](error):
                raise
        answer: _Answer = await retrying_async(self.limits.retry, _REPEATABLE[method])(attempt)
        return answer


class AsyncStream:
    """A snake's stream over as many connections as it takes; to be closed."""

    def __init__(self, link: AsyncLink, snake_id: str, lines: Lines) -> None:
        self._link = link
        self._path = f"/snake/{snake_id}" + ("?lines=all" if lines == "all" else "")
        self._reader = LineReader(snake_id, lines)
        self._connection: AsyncConnection | None = None
        self.held = _Held()

    def unread(self) -> AgentState | None:
        """Return the next state if it has come already; raises BadAnswer, SnakeLost."""
        return self._reader.next_state()

    async def next_state(self) -> AgentState:
        """Return the next state, over a new connection if there is none.

        Raises StreamBroken, ConnectionBroken, BadAnswer, SnakeLost, Refused.
        """
        try:
            connection = self._connection or await self.connect()
            while (state := self._reader.next_state()) is None:
                part = await connection.part(self._link.limits.line)
                if not part:
                    raise StreamBroken(f"{self._link.url} ended a stream before the snake's life was over")
                self._reader.feed(part)
        except ConnectionBroken:
            await self.aclose()
            raise
        return state

    async def aclose(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self.held.end()
            self._link.http.give_back(self._connection)
            self._connection = None

    async def connect(self) -> AsyncConnection:
        """Open a connection: the server has answered that the stream begins. Raises as `next_state`."""
        self.held.begin()
        if self._reader.has_begun:
            self._reader.check_still_alive(await self._link.ask_once("GET", "/state", dict[str, Any]))
        http = self._link.http
        connection = await http.begin("GET", self._path)
        if connection.status != 200:
            try:
                self._link.check(self._path, connection.status, connection.headers)
                body = await connection.rest(self._link.limits.answer)
            finally:
                http.give_back(connection)
            read_answer(connection.status, connection.headers, body, AgentState)
        self._reader.connect()
        self.held.made()
        self._connection = connection
        return connection
