"""Bodies, headers and answers for plain ASGI endpoints: what a hot route needs, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from rattle.wire.problems import PROBLEM_TYPE, RequestError, problem_body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

#: How long the rest of a body may take to arrive, in seconds.
BODY_SECONDS = 30.0


class ClientGone(Exception):
    """The client has closed the connection before its request was complete."""


def header(scope: Scope, name: bytes) -> str | None:
    """Return a request header by its lower-case name, None where there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Return a request's body.

    Raises RequestError when it is larger than `max_bytes`, which is known from its length before it is read, or does
    not arrive in time, and ClientGone when it never will.
    """
    length = header(scope, b"content-length")
    if length is not None and length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        return body
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read_rest(body, receive, max_bytes)
    except TimeoutError:
        raise RequestError("bad_request", f"the body did not arrive within {BODY_SECONDS:.0f} seconds") from None


async def _read_rest(first: bytes, receive: Receive, max_bytes: int) -> bytes:
    parts, size, more = [first], len(first), True
    while more:
        if size > max_bytes:
            raise _too_large(max_bytes)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
    if size > max_bytes:
        raise _too_large(max_bytes)
    return b"".join(parts)


async def answer(send: Send, status: int, media_type: str, body: bytes, headers: Headers = ()) -> None:
    """Send a whole answer."""
    head = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def answer_problem(send: Send, error: RequestError) -> None:
    """Send a problem; where its body was not read to the end, the connection closes after it."""
    headers: list[tuple[bytes, bytes]] = []
    if error.status == 503:
        headers.append((b"retry-after", b"1"))
    if error.code in ("too_large", "bad_request"):
        headers.append((b"connection", b"close"))
    if "allow" in error.more:
        headers.append((b"allow", str(error.more["allow"]).encode()))
    await answer(send, error.status, PROBLEM_TYPE, problem_body(error), headers)


def _too_large(max_bytes: int) -> RequestError:
    return RequestError("too_large", f"the body is larger than the {max_bytes} bytes that this server takes")
