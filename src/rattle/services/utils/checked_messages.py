"""Messages of gRPC that end in their checksum, the field `crc32c`: who reads one notices whether it was damaged.

Peers that know no checksums skip the field, and their messages, which have none, are taken as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import aclosing
from typing import Any, TypeVar, cast

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError, Message

from rattle.clients.errors import DamagedAnswer
from rattle.services.utils import budget
from rattle.services.utils.grpc_reading import Reading, check_fields
from rattle.services.utils.grpc_refusals import answering
from rattle.wire.checksums import DamagedMessage, add_checksum, is_whole, note_damage
from rattle.wire.problems import RequestError

Received = TypeVar("Received", bound=Message)

#: How the field begins, which is the last of a message: field 100, four bytes.
_NAME = b"\xa5\x06"
#: Fields that a message longer than this may have: a rollout has one for the state of each of its ticks.
_SMALL_BYTES, _MOST_FIELDS = 2**16, 2**15
#: Messages longer than this are read in a thread.
_LONG_BYTES = 2**20


class _MessageReader:
    """Reads one kind of message of one peer; a message without a checksum, after one that had it, has lost it."""

    def __init__(self, parse: Callable[[bytes], Any]) -> None:
        self._parse = parse
        self._had_checksum = False

    def read(self, received: bytes) -> Any:
        """Return a message; raises DamagedMessage."""
        had_checksum, self._had_checksum = self._had_checksum, False
        try:
            message = self._parse(received)
        except DecodeError:
            raise DamagedMessage("it cannot be decoded") from None
        if message.HasField("crc32c"):
            if not is_whole(received):
                raise DamagedMessage("its content does not match its checksum")
            self._had_checksum = True
            message.ClearField("crc32c")
        elif had_checksum:
            raise DamagedMessage("it has no checksum, unlike the last one")
        return message


def _writer(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    return lambda message: add_checksum(serialize(message), _NAME)


class CheckedServer:
    """What the generated `add_…Servicer_to_server` takes in place of a server, to have all messages checked."""

    def __init__(self, server: grpc.aio.Server, largest: int, large: Collection[str]) -> None:
        """`largest` is the size of the largest message, and `large` are the methods that are meant for such ones."""
        self._server = server
        self._large = large
        self._largest = largest

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Leave the methods to `add_registered_method_handlers`, which is called with the same."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Add the methods of a service."""
        kinds = descriptor_pool.Default().FindServiceByName(service).methods_by_name
        for are_large in (True, False):  # so that who sends large requests keeps nobody from asking how things stand
            checked = {
                name: _checked(one, kinds[name].input_type)
                for name, one in handlers.items()
                if (name in self._large) == are_large
            }
            self._server.add_generic_rpc_handlers((Reading(self._largest).handlers(service, checked),))


def _check_fields(received: bytes, kind: Any) -> None:
    """Raise RequestError for a message of too many fields, and DamagedMessage where they may be none of its own."""
    try:
        check_fields(received, kind, _MOST_FIELDS)
    except RequestError:
        if received[-6:-4] == _NAME and not is_whole(received):
            raise DamagedMessage("its content does not match its checksum") from None
        raise


async def _read(reader: _MessageReader, received: bytes, kind: Any, peer: str) -> Any:
    if len(received) > _LONG_BYTES:  # the loop continues while fields are counted and the checksum is computed
        return await asyncio.to_thread(_read_at_once, reader, received, kind, peer)
    return _read_at_once(reader, received, kind, peer)


def _read_at_once(reader: _MessageReader, received: bytes, kind: Any, peer: str) -> Any:
    try:
        if len(received) > _SMALL_BYTES:
            _check_fields(received, kind)
        return reader.read(received)
    except DamagedMessage as error:
        note_damage(peer, str(error))
        raise RequestError("damaged", f"the message arrived damaged: {error}: send it again") from None


def _checked(handler: Any, kind: Any) -> grpc.RpcMethodHandler[Any, Any]:
    parse, write = handler.request_deserializer, _writer(handler.response_serializer)

    async def unary_unary(received: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        async with answering(context):
            with budget.BUDGET.holding(len(received)):
                request = await _read(_MessageReader(parse), received, kind, context.peer())
                return await handler.unary_unary(request, context)

    async def unary_stream(received: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        async with answering(context):
            request = await _read(_MessageReader(parse), received, kind, context.peer())
            del received  # which may be large, and the answers may continue for long
        async with aclosing(handler.unary_stream(request, context)) as answers:
            async for answer in answers:
                yield answer

    async def stream_stream(received: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        reader = _MessageReader(parse)
        await handler.stream_stream((await _read(reader, one, kind, context.peer()) async for one in received), context)

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(stream_stream, response_serializer=write)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(unary_stream, response_serializer=write)
    return grpc.unary_unary_rpc_method_handler(unary_unary, response_serializer=write)


class _CheckedChannel:
    """What a generated stub takes in place of a channel; what arrives damaged comes as a DamagedMessage."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None:
        self._channel = channel

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        make = getattr(self._channel, kind)

        def method(path: str, request_serializer: Any, response_deserializer: Any, **more: Any) -> Any:
            reader = _MessageReader(response_deserializer)

            def read(received: bytes) -> Any:
                try:
                    return reader.read(received)
                except DamagedMessage as error:  # gRPC would log what is raised here, and not pass it on
                    return error

            writer = _writer(request_serializer)
            return make(path, request_serializer=writer, response_deserializer=read, **more)

        return method


def checked(channel: grpc.Channel | grpc.aio.Channel) -> grpc.Channel:
    """Return a channel for a stub, whose messages are checked; ask `whole` of every answer."""
    return cast(grpc.Channel, _CheckedChannel(channel))


def whole(answer: Received, source: str) -> Received:
    """Return an answer of a checked channel; raises DamagedAnswer, and says so, where it arrived damaged."""
    if isinstance(answer, DamagedMessage):
        note_damage(source, str(answer))
        raise DamagedAnswer(f"{source} sent a message that arrived damaged: {answer}")
    return answer
