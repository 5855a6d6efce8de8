"""Requests over gRPC that are on their way: gRPC bounds each of them, and this their sum.

How long a request will be is not known before it has been read. So only some are read at a time, each of which may be
the largest.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import cache
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor import FieldDescriptor

from rattle.services.utils import budget
from rattle.services.utils.asgi import BODY_SECONDS
from rattle.services.utils.budget import Shares, share
from rattle.services.utils.grpc_refusals import address_of_peer, answering
from rattle.wire.problems import RequestError

#: Calls that wait for their turn, and have sent no more than a stream's window.
_WAITING = 1024
#: Bytes that a slow line carries in a second.
_SLOWEST = 2**20

#: Types of numbers that take as many bytes in a message as in memory.
_AS_THEY_ARE = (
    *(FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_SFIXED32, FieldDescriptor.TYPE_FLOAT),
    *(FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64, FieldDescriptor.TYPE_DOUBLE),
)
#: Bytes of a number of any other type, and those that are not its last one.
_LONGEST_NUMBER, _NOT_LAST = 10, bytes(range(128, 256))

_Context = grpc.aio.ServicerContext[Any, Any]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Quick: TypeAlias = dict[asyncio.Task[Any] | None, float]


class _Turns:
    """Turns to read, which calls wait for: the next one is for the address that has the fewest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def take(self, peer: str) -> None:
        """Wait for a turn."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(peer, deque()).append(turn)
        self._hand_on()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(peer, turn)
            else:
                self.give_back(peer)
            raise

    def give_back(self, peer: str) -> None:
        """Give a turn to the next."""
        self._held[peer] -= 1
        if not self._held[peer]:
            del self._held[peer]
        self._hand_on()

    def keeps_others_waiting(self, peer: str) -> bool:
        """Return whether an address has all turns, of several, and another one waits."""
        return self._held[peer] >= self._most > 1 and any(other != peer for other in self._waiting)

    def _hand_on(self) -> None:
        while (used := self._held.total()) < self._most:
            welcome = [peer for peer in self._waiting if self._held[peer] < share(self._most, used - self._held[peer])]
            if not welcome:
                return
            peer = min(welcome, key=self._held.__getitem__)
            line = self._waiting.pop(peer)
            turn = line.popleft()
            if line:
                self._waiting[peer] = line  # after all others
            if not turn.done():  # its call has not ended
                self._held[peer] += 1
                turn.set_result(None)

    def _leave(self, peer: str, turn: asyncio.Future[None]) -> None:
        line = self._waiting.get(peer, deque())
        if turn in line:
            line.remove(turn)
            if not line:
                del self._waiting[peer]


class Reading:
    """The requests that a service reads at a time.

    Those of `quick` methods are read as gRPC does by itself while there are few, which costs nothing: what answers them
    calls `arrived` first. All others wait for their turn. A request may take as long as other bodies and, since nobody
    sees how much of it is there, the time that the largest one takes over a slow line; or just so many `seconds`.
    """

    def __init__(self, largest: int, quick: bool = False, seconds: float | None = None) -> None:
        self._largest = largest
        self._most = most = budget.BUDGET.most(largest)
        self._quick: _Quick | None = {} if quick else None
        self._seconds = BODY_SECONDS + largest / _SLOWEST if seconds is None else seconds
        self._patience = self._seconds + BODY_SECONDS if seconds is None else seconds  # until it is a call's turn
        self._turns = _Turns(most)
        self._waiting = Shares(_WAITING, "places of requests to be read")

    def handlers(self, service: str, handlers: Mapping[str, _Handler]) -> grpc.GenericRpcHandler:
        """Return the methods of a service, whose requests arrive as bytes, as a server takes them."""
        in_turn = {name: self._in_turn(handler) for name, handler in handlers.items()}
        return _Methods(service, self, handlers, in_turn)

    def is_quick(self) -> bool:
        """Return whether the call of this task may read its request without waiting for a turn."""
        if self._quick is None:
            return False
        now = asyncio.get_running_loop().time()
        if len(self._quick) >= self._most:
            self._quick = self._still_quick(self._quick, now)
            if len(self._quick) >= self._most:
                return False
        self._quick[asyncio.current_task()] = now
        return True

    def arrived(self) -> None:
        """Know that the request of this task's call has arrived."""
        if self._quick is not None:
            self._quick.pop(asyncio.current_task(), None)

    async def first(self, context: _Context) -> bytes:
        """Return the first message of a call when it is its turn; raises RequestError when it does not come."""
        peer = address_of_peer(context)
        try:
            with self._waiting.holding(peer):
                async with asyncio.timeout(self._patience):
                    await self._turns.take(peer)
            received = await self._read(peer, context)
        except TimeoutError:
            detail = f"{self._most} requests are read at a time, for {self._seconds:.0f} seconds at most: send it again"
            raise RequestError("full", detail) from None
        if received is grpc.aio.EOF:
            raise RequestError("bad_request", "the call ended without a request")
        return bytes(received)

    async def _read(self, peer: str, context: _Context) -> Any:
        """Read a message in a turn, and give that back; raises TimeoutError where others may wait no longer for it."""
        received: Any = bytes(0)
        clock = asyncio.get_running_loop().time
        reading, until = asyncio.ensure_future(context.read()), clock() + self._seconds
        try:
            while not reading.done():
                await asyncio.wait((reading,), timeout=min(BODY_SECONDS, until - clock()))
                if not reading.done() and (clock() >= until or self._turns.keeps_others_waiting(peer)):
                    raise TimeoutError
            received = reading.result()
            return received
        finally:  # nobody knows how much of what has not arrived is there
            reading.cancel()
            budget.BUDGET.note(len(received) or self._most * self._largest)
            self._turns.give_back(peer)

    def _still_quick(self, quick: _Quick, now: float) -> _Quick:
        """Return the quick requests that have not ended, and end those that take too long."""
        quick = {task: began for task, began in quick.items() if task is not None and not task.done()}
        for task, began in quick.items():
            if task is not None and now - began > self._seconds:
                task.cancel()
        return quick

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

        async def streams(_messages: object, context: _Context) -> None:
            received: Any = None
            async with answering(context):
                received = await self.first(context)
            received = _followed(received, context.read, self._largest)  # and the message is held by it alone
            await handler.stream_stream(received, context)

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


async def _followed(message: Any, read: Callable[[], Awaitable[Any]], largest: int) -> AsyncIterator[bytes]:
    """Yield a message and those after it, and hold none that has been worked on."""
    try:
        while message is not grpc.aio.EOF:
            size = len(message)
            yield message
            message = b""
            budget.BUDGET.note(size)
            message = await read()  # gRPC's iterator would hold each until the next one is there
    finally:  # nobody knows how much of the last one was there
        budget.BUDGET.note(largest)


def check_fields(content: bytes, kind: Any, most: int, numbers: int | None = None) -> None:
    """Raise RequestError (too_large) for a message of more fields than `most`, those of messages within it included.

    So many `numbers`, else as many as fields, may be packed: one byte of such a field may become eight. `kind` is the
    descriptor of the message; what is none raises RequestError too. To walk over fields and lengths is quick; to make
    objects of a million of them is not.
    """
    try:
        _walk(memoryview(content), kind, most, most if numbers is None else numbers)
    except IndexError:  # a number is cut off
        raise RequestError("bad_request", f"the request is no {kind.name}") from None


def _walk(content: memoryview, kind: Any, most: int, numbers: int) -> None:
    parts = [(content, kind)]
    while parts:
        part, kind = parts.pop()
        at, end, within, packed = 0, len(part), _messages_within(kind), _packed_within(kind)
        while at < end:
            if (most := most - 1) < 0:
                raise RequestError("too_large", "the request has too many fields")
            tag, at = _varint(part, at)
            match tag & 7:
                case 2:  # a length, and so many bytes
                    length, at = _varint(part, at)
                    if tag >> 3 in within:
                        parts.append((part[at : at + length], within[tag >> 3]))
                    elif tag >> 3 in packed and (numbers := numbers - _packed(part[at : at + length], numbers)) < 0:
                        raise RequestError("too_large", "the request has too many numbers")
                    at += length
                case 0:
                    _, at = _varint(part, at)
                case 1:
                    at += 8
                case 5:
                    at += 4
                case _:
                    raise RequestError("bad_request", f"the request is no {kind.name}")


@cache
def _messages_within(kind: Any) -> dict[int, Any]:
    return {field.number: field.message_type for field in kind.fields if field.message_type is not None}


@cache
def _packed_within(kind: Any) -> set[int]:
    return {field.number for field in kind.fields if field.is_packed and field.type not in _AS_THEY_ARE}


def _packed(part: memoryview, most: int) -> int:
    """Return how many numbers a field has, or just that there are more than `most`; each ends in a byte under 128."""
    return most + 1 if len(part) > _LONGEST_NUMBER * most else len(bytes(part).translate(None, _NOT_LAST))


def _varint(part: memoryview, at: int) -> tuple[int, int]:
    """Return a number, and where what follows it begins; of one that is too long, the parser finds that it is."""
    value = part[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    for shift in range(7, 70, 7):
        at += 1
        value |= (part[at] & 0x7F) << shift
        if part[at] < 0x80:
            break
    return value, at + 1
