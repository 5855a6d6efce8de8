"""Bodies, headers and answers for plain ASGI endpoints: what a hot route needs, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from rattle.wire.problems import PROBLEM_TYPE, RequestError, problem_body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

#: The extension of a request's scope that knows its connection.
CONNECTION = "rattle.connection"
#: How long a body may take to arrive, in seconds.
BODY_SECONDS = 30.0
#: How long a body that is too large is read on, in seconds.
_DISCARD_SECONDS = 2.0


class ClientGone(Exception):
    """The client has closed the connection before its request was complete."""


def header(scope: Scope, name: bytes) -> str | None:
    """Return a request header by its lower-case name, None where there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def peer_of(scope: Scope) -> str:
    """Return the address that a request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def as_get(scope: Scope) -> Scope:
    """Return the request to answer: HEAD is answered like GET, and the connection leaves the body out."""
    return {**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope


def exposition(registry: Collector, scope: Scope) -> tuple[str, bytes]:
    """Return the media type and the text of numbers for Prometheus, in the form that the request accepts.

    Without a wish that is text of version 0.0.4; OpenMetrics is for those that ask for it.
    """
    encode, media_type = choose_encoder(header(scope, b"accept") or "")
    return media_type, encode(registry)


def may_be_gone(scope: Scope) -> Callable[[], bool]:
    """Return what says, at any moment after the body has been read, whether the client has closed the connection."""
    asked: Callable[[], bool] = scope["extensions"][CONNECTION]["is_gone"]
    return asked


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Return a request's body.

    Raises RequestError when it is larger than `max_bytes`, which is known from its length before it is read, when
    there is no room for it next to others, and when it does not arrive in time or before the service stops; raises
    ClientGone when it never will.
    """
    length = header(scope, b"content-length")
    if length is not None and length.isdecimal() and int(length) > max_bytes:
        if header(scope, b"expect") is None:
            await _discard(receive, max_bytes)
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body, complete = await _read(receive, max_bytes)
    except TimeoutError:
        raise RequestError("bad_request", f"the body did not arrive within {BODY_SECONDS:.0f} seconds") from None
    except RequestError as error:
        if error.code == "full":
            await _discard(receive, max_bytes)
        raise
    if len(body) > max_bytes:
        if not complete:
            await _discard(receive, max_bytes)
        raise _too_large(max_bytes)
    return body


async def _read(receive: Receive, max_bytes: int) -> tuple[bytes, bool]:
    """Return what has arrived and whether it is the whole body: less only where it is too large already."""
    first, more = await _receive_part(receive)
    if not more:
        return first, True
    parts, size = [first], len(first)
    try:
        while more and size <= max_bytes:
            part, more = await _receive_part(receive)
            parts.append(part)
            size += len(part)
    except RequestError:
        parts.clear()  # else the error's own frames would keep them
        raise
    return b"".join(parts), not more


async def _receive_part(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        if message.get("stopping"):
            raise RequestError("shutting_down", "the service is stopping: it did not wait for the rest of the body")
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)


async def _discard(receive: Receive, max_bytes: int) -> None:
    """Read on for a while: a client that still writes when the connection closes may not see the answer."""
    size, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while more and size <= max_bytes:
                part, more = await _receive_part(receive)
                size += len(part)


async def answer(send: Send, status: int, media_type: str, body: bytes, headers: Headers = ()) -> None:
    """Send a whole answer."""
    about_body = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
    head = [*(about_body if status != 204 else ()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def answer_problem(send: Send, error: RequestError, *, close: bool = False) -> None:
    """Send a problem; with `close`, and where its body was not read to the end, the connection closes after it."""
    headers = _problem_headers(error)
    if close or error.code in ("too_large", "bad_request"):
        headers.append((b"connection", b"close"))
    await answer(send, error.status, PROBLEM_TYPE, problem_body(error), headers)


async def refuse(scope: Scope, receive: Receive, send: Send, error: RequestError, *, close: bool = False) -> None:
    """Answer a request of either kind with a problem."""
    await (answer_problem(send, error, close=close) if scope["type"] == "http" else decline(receive, send, error))


async def decline(receive: Receive, send: Send, error: RequestError) -> None:
    """Answer the request for a WebSocket with a problem."""
    await receive()
    headers = [(b"content-type", PROBLEM_TYPE.encode()), *_problem_headers(error)]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": problem_body(error)})


def _problem_headers(error: RequestError) -> list[tuple[bytes, bytes]]:
    headers: list[tuple[bytes, bytes]] = []
    if error.status == 503:
        headers.append((b"retry-after", b"1"))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if "allow" in error.more:
        headers.append((b"allow", str(error.more["allow"]).encode()))
    if "upgrade" in error.more:
        headers.extend([(b"upgrade", str(error.more["upgrade"]).encode()), (b"connection", b"Upgrade")])
    return headers


def _too_large(max_bytes: int) -> RequestError:
    return RequestError("too_large", f"the body is larger than the {max_bytes} bytes that this server takes")
