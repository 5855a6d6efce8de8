"""Requests over gRPC that are on their way: gRPC bounds each of them, and this their sum.

How long a request will be is not known before it has been read. So only some are read at a time, each of which may be
the largest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from rattle.services.utils import budget
from rattle.services.utils.asgi import BODY_SECONDS
from rattle.services.utils.grpc_serving import answering
from rattle.wire.problems import RequestError

_Context = grpc.aio.ServicerContext[Any, Any]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

#: How fields of protobuf begin that have a length, or are a number of any or of a fixed length, in bytes.
_BY_LENGTH, _VARINT, _FIXED_LENGTHS = 2, 0, {1: 8, 5: 4}
_LONGEST_VARINT = 10


class Reading:
    """The requests that a service reads at a time.

    Those of `quick` methods are read as gRPC does by itself while there are few, which costs nothing: what answers them
    calls `arrived` first. All others wait for their turn, and for their request no longer than other bodies may take.
    """

    def __init__(self, largest: int, quick: bool = False) -> None:
        self._largest = largest
        self._most = most = budget.BUDGET.most(largest)
        self._quick: dict[asyncio.Task[Any] | None, None] | None = {} if quick else None
        self._turns = asyncio.Semaphore(most)

    def handlers(self, service: str, handlers: Mapping[str, _Handler]) -> grpc.GenericRpcHandler:
        """Return the methods of a service, whose requests arrive as bytes, as a server takes them."""
        in_turn = {name: self._in_turn(handler) for name, handler in handlers.items()}
        return _Methods(service, self, handlers, in_turn)

    def is_quick(self) -> bool:
        """Return whether the call of this task may read its request without waiting for a turn."""
        if self._quick is None:
            return False
        if len(self._quick) >= self._most:
            self._quick = {task: None for task in self._quick if task is not None and not task.done()}
            if len(self._quick) >= self._most:
                return False
        self._quick[asyncio.current_task()] = None
        return True

    def arrived(self) -> None:
        """Know that the request of this task's call has arrived."""
        if self._quick is not None:
            self._quick.pop(asyncio.current_task(), None)

    async def first(self, context: _Context) -> bytes:
        """Return the first message of a call when it is its turn; raises RequestError when it does not come."""
        received: Any = bytes(0)
        try:
            async with asyncio.timeout(BODY_SECONDS), self._turns:
                try:
                    received = await context.read()
                finally:  # nobody knows how much of what has not arrived is there
                    budget.BUDGET.note(len(received) or self._most * self._largest)
        except TimeoutError:
            detail = f"{self._most} requests are being read, and this one was not within {BODY_SECONDS:.0f} seconds"
            raise RequestError("full", detail) from None
        if received is grpc.aio.EOF:
            raise RequestError("bad_request", "the call ended without a request")
        return bytes(received)

    def _in_turn(self, handler: Any) -> _Handler:
        serialize = handler.response_serializer

        async def unary(_messages: object, context: _Context) -> Any:
            async with answering(context):
                received = await self.first(context)
            return await handler.unary_unary(received, context)

        async def stream(_messages: object, context: _Context) -> AsyncIterator[Any]:
            async with answering(context):
                received = await self.first(context)
            async with aclosing(handler.unary_stream(received, context)) as answers:
                async for answer in answers:
                    yield answer

        async def streams(messages: AsyncIterator[bytes], context: _Context) -> None:
            async with answering(context):
                received = await self.first(context)
            await handler.stream_stream(_followed(received, messages), context)

        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(streams, response_serializer=serialize)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(stream, response_serializer=serialize)
        return grpc.stream_unary_rpc_method_handler(unary, response_serializer=serialize)


class _Methods(grpc.ServiceRpcHandler):
    def __init__(
        self, service: str, reading: Reading, quick: Mapping[str, _Handler], in_turn: Mapping[str, _Handler]
    ) -> None:
        self._service = service
        self._reading = reading
        self._quick = {f"/{service}/{name}": handler for name, handler in quick.items()}
        self._in_turn = {f"/{service}/{name}": handler for name, handler in in_turn.items()}

    def service_name(self) -> str:
        return self._service

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler | None:
        method = str(handler_call_details.method)
        if method not in self._in_turn:
            return None
        return (self._quick if self._reading.is_quick() else self._in_turn)[method]


async def _followed(first: bytes, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for message in messages:
        yield message


def check_fields(content: bytes, kind: Any, most: int) -> None:
    """Raise RequestError (too_large) for a message of more fields than `most`, those of messages within it included.

    `kind` is the descriptor of the message. To walk over fields and lengths is quick; to make objects of a million of
    them is not.
    """
    parts = [(memoryview(content), kind)]
    while parts:
        part, kind = parts.pop()
        at, end = 0, len(part)
        while at < end:
            if (most := most - 1) < 0:
                raise RequestError("too_large", "the request has too many fields")
            tag, at = _varint(part, at)
            length = _FIXED_LENGTHS.get(tag & 7, 0)
            if tag & 7 == _BY_LENGTH:
                length, at = _varint(part, at)
                field = kind.fields_by_number.get(tag >> 3)
                if field is not None and field.message_type is not None:
                    parts.append((part[at : at + length], field.message_type))
            elif tag & 7 == _VARINT:
                _, at = _varint(part, at)
            elif not length:
                raise RequestError("bad_request", f"the request is no {kind.name}")
            at += length


def _varint(part: memoryview, at: int) -> tuple[int, int]:
    """Return a number, and where what follows it begins; what is cut off or too long, the parser finds."""
    value = 0
    for place, byte in enumerate(part[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    return value, at + _LONGEST_VARINT
