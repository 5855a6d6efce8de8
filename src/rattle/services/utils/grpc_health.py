"""The standard health and reflection services, which some may ask who may ask nothing else: so they are bounded.

Who asks for the empty name learns whether the server lives; for a service by its name, whether its calls are welcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from rattle.services.utils.budget import Shares
from rattle.services.utils.grpc_reading import Reading
from rattle.services.utils.grpc_refusals import address_of_peer, answering
from rattle.wire.problems import RequestError

#: Who does not say in so many seconds for which service it asks gets the answer for the server.
_ASKED_SECONDS = 0.5
#: How often those who watch are looked up what has changed by itself, in seconds.
_LOOK_SECONDS = 1.0
#: Streams of this module that are open at a time.
_STREAMS = 64
#: Calls in reserve for health: its streams, and the questions of as many moments.
RESERVED_CALLS = 4 * _STREAMS

_Context = grpc.aio.ServicerContext[Any, Any]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class HealthServices:
    """The standard health and reflection services of a server: of each of its services by name, of itself as ""."""

    def __init__(
        self,
        server: grpc.aio.Server,
        names: Sequence[str],
        largest: int,
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """`largest` is the size of the largest message that the server takes.

        `is_ready` says whether the named services can do their work, while they serve.
        """
        self._names = names
        self._is_ready = is_ready
        self._serving = False
        self._changed = asyncio.Condition()
        self._streams = Shares(_STREAMS, "streams of health and reflection")
        self._asking = 0
        self._checks = Reading(largest, seconds=_ASKED_SECONDS)
        others = Reading(largest)
        self._reflection = reflection.aio.ReflectionServicer((*names, health.SERVICE_NAME, reflection.SERVICE_NAME))
        check: _Handler = grpc.stream_unary_rpc_method_handler(self._check, None, HealthCheckResponse.SerializeToString)
        watch: _Handler = grpc.unary_stream_rpc_method_handler(self._watch, None, HealthCheckResponse.SerializeToString)
        tell: _Handler = grpc.stream_stream_rpc_method_handler(
            self._reflect, None, ServerReflectionResponse.SerializeToString
        )
        # gRPC has a queue for each method that is registered, and one for all others, whose calls it breaks off while
        # that is full. `make_server` keeps methods from being registered, for its guard: this one all may call.
        type(server).add_registered_method_handlers(server, health.SERVICE_NAME, {"Check": check})
        server.add_generic_rpc_handlers(
            (
                others.handlers(health.SERVICE_NAME, {"Watch": watch}),
                others.handlers(reflection.SERVICE_NAME, {"ServerReflectionInfo": tell}),
            )
        )

    async def say(self, *, serving: bool) -> None:
        """Say whether calls of the named services are welcome."""
        async with self._changed:
            self._serving = serving
            self._changed.notify_all()

    def _status(self, name: str) -> HealthCheckResponse.ServingStatus.ValueType:
        if name in ("", health.SERVICE_NAME):
            return HealthCheckResponse.SERVING
        if name not in self._names:
            return HealthCheckResponse.SERVICE_UNKNOWN
        is_ready = self._serving and self._is_ready()
        return HealthCheckResponse.SERVING if is_ready else HealthCheckResponse.NOT_SERVING

    async def _check(self, _messages: object, context: _Context) -> HealthCheckResponse:
        async with answering(context):
            status = self._status(await self._asked(context))
            if status == HealthCheckResponse.SERVICE_UNKNOWN:
                await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return HealthCheckResponse(status=status)

    async def _asked(self, context: _Context) -> str:
        """Return which service is asked for; while too many ask at a time, none but the server."""
        if self._asking >= _STREAMS:
            return ""
        self._asking += 1
        try:
            name: str = _parsed(HealthCheckRequest, await self._checks.first(context)).service
            return name
        except RequestError as error:
            if error.code == "full":
                return ""
            raise
        finally:
            self._asking -= 1

    async def _watch(self, received: bytes, context: _Context) -> AsyncIterator[HealthCheckResponse]:
        async with answering(context):
            name: str = _parsed(HealthCheckRequest, received).service
            del received
            with self._streams.holding(address_of_peer(context)):
                said = None
                while True:
                    async with self._changed:
                        while said == (status := self._status(name)):
                            with suppress(TimeoutError):
                                async with asyncio.timeout(_LOOK_SECONDS):
                                    await self._changed.wait()
                    said = status
                    yield HealthCheckResponse(status=said)

    async def _reflect(self, received: AsyncIterator[bytes], context: _Context) -> None:
        async with answering(context):
            with self._streams.holding(address_of_peer(context)):
                questions = (_parsed(ServerReflectionRequest, one) async for one in received)
                async for answer in self._reflection.ServerReflectionInfo(questions, context):
                    await context.write(answer)


def _parsed(kind: Any, received: bytes) -> Any:
    try:
        return kind.FromString(received)
    except DecodeError:
        raise RequestError("bad_request", f"the request is no {kind.DESCRIPTOR.name}") from None
