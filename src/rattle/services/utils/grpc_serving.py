"""Running a gRPC service: its server and limits, health, refusals, the first line and a shutdown that says goodbye."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NoReturn, Protocol

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection

from rattle.events import emit, of_services
from rattle.output import write_line
from rattle.services.utils import budget
from rattle.services.utils.asgi import BODY_SECONDS
from rattle.services.utils.guard import Guard
from rattle.services.utils.server_tls import ServerTls
from rattle.services.utils.sockets import PortTaken, address_of, listen
from rattle.stop_signals import stop_signals
from rattle.text import one_line
from rattle.wire.problems import LONGEST_TEXT, RequestError

#: How long calls in progress may go on when the service stops, in seconds.
GRACE_SECONDS = 5.0
#: A client that says nothing is asked after so many seconds whether it lives, and given up when it does not answer.
_ALIVE_AFTER_SECONDS = 20
_ALIVE_WITHIN_SECONDS = 10
#: Clients may ask the same, but not more often.
_ASKED_EVERY_SECONDS = 5

#: The method that says whether a service lives, which anybody may call. Watch keeps a call open, and needs the token.
_HEALTH = f"/{health.SERVICE_NAME}/Check"
#: How many calls of it may be waiting for their request.
_HEALTH_PLACES = 64
#: For servers of large messages: none may be packed, since a small one could become a large one.
UNPACKED = (("grpc.compression_enabled_algorithms_bitset", 1),)

#: The gRPC status of every code of a RequestError.
STATUS = {
    "bad_request": grpc.StatusCode.INVALID_ARGUMENT,
    "upgrade_required": grpc.StatusCode.UNIMPLEMENTED,
    "bad_value": grpc.StatusCode.INVALID_ARGUMENT,
    "damaged": grpc.StatusCode.DATA_LOSS,
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "unknown_path": grpc.StatusCode.UNIMPLEMENTED,
    "unknown_snake": grpc.StatusCode.NOT_FOUND,
    "unknown_session": grpc.StatusCode.NOT_FOUND,
    "unknown_policy": grpc.StatusCode.NOT_FOUND,
    "unknown_agent": grpc.StatusCode.NOT_FOUND,
    "no_agent_api": grpc.StatusCode.NOT_FOUND,
    "no_history": grpc.StatusCode.NOT_FOUND,
    "wrong_method": grpc.StatusCode.UNIMPLEMENTED,
    "not_acceptable": grpc.StatusCode.INVALID_ARGUMENT,
    "wrong_step": grpc.StatusCode.FAILED_PRECONDITION,
    "conflict": grpc.StatusCode.ALREADY_EXISTS,
    "replaced": grpc.StatusCode.ABORTED,
    "cannot_replay": grpc.StatusCode.FAILED_PRECONDITION,
    "run_over": grpc.StatusCode.FAILED_PRECONDITION,
    "too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unsupported_type": grpc.StatusCode.INVALID_ARGUMENT,
    "too_late": grpc.StatusCode.DEADLINE_EXCEEDED,
    "internal": grpc.StatusCode.INTERNAL,
    "full": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "not_ready": grpc.StatusCode.UNAVAILABLE,
    "starting": grpc.StatusCode.UNAVAILABLE,
    "shutting_down": grpc.StatusCode.UNAVAILABLE,
}


class GrpcService(Protocol):
    """What is served by itself, over gRPC only."""

    #: Full names of its gRPC services, such as "rattle.v1.Training".
    names: Sequence[str]

    def attach(self, server: grpc.aio.Server) -> None:
        """Add its methods to a server."""

    async def start(self) -> None:
        """Called when the service has its address and before the first call."""

    async def stop(self) -> None:
        """Called before calls are cut off: streams end here."""


class _Guarded(grpc.GenericRpcHandler):
    """Looked at before the methods of a server: has those who may not call them, and nobody else.

    An interceptor would do the same for a tenth of a millisecond a call.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return what refuses a call, None where it is welcome."""
        method = str(handler_call_details.method)
        if method == _HEALTH:
            return None
        said = dict(handler_call_details.invocation_metadata).get("authorization")
        try:
            self._guard.check_token(method, None if said is None else str(said))
        except RequestError as error:
            self._guard.refused.labels(STATUS[error.code].name).inc()
            return grpc.stream_stream_rpc_method_handler(partial(_refusing, error))  # reads nothing of what is sent
        return None


async def _refusing(error: RequestError, _messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await refuse(context, error)


def make_server(
    max_message_bytes: int, max_calls: int, guard: Guard, options: Sequence[tuple[str, int]] = ()
) -> grpc.aio.Server:
    """Return a server with bounds: of a message's size, and of the calls, streams included, that go on at a time.

    Whatever methods are added, those whom the guard does not let pass reach health alone.
    """
    server = grpc.aio.server(
        maximum_concurrent_rpcs=max_calls,
        options=[
            *options,
            ("grpc.so_reuseport", 0),  # else two services on one port would share its connections
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_concurrent_streams", max_calls),
            ("grpc.http2.bdp_probe", 0),  # else requests that nobody reads yet may send megabytes ahead
            ("grpc.keepalive_time_ms", _ALIVE_AFTER_SECONDS * 1000),
            ("grpc.keepalive_timeout_ms", _ALIVE_WITHIN_SECONDS * 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _ASKED_EVERY_SECONDS * 1000),
        ],
    )
    server.add_generic_rpc_handlers((_Guarded(guard),))
    # Generated code adds methods in both ways; what is added in this one would be found before the guard.
    server.add_registered_method_handlers = lambda *_: None  # type: ignore[method-assign]
    return server


def bind(server: grpc.aio.Server, host: str, port: int, tls: ServerTls | None = None) -> str:
    """Have a server listen, on any free port for 0, and return HOST:PORT; raises ServiceError in one line."""
    listen(host, port).close()  # says why not; gRPC itself would write lines of its own to stderr
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        got = server.add_insecure_port(at) if tls is None else server.add_secure_port(at, _credentials(tls))
    except RuntimeError:
        raise PortTaken(f"cannot listen on port {port} of {host}: choose another") from None
    return address_of(host if tls is None else tls.name, got)


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    certificate, key, authority = tls.files.read()
    trusted = authority if tls.mutual else None
    return grpc.ssl_server_credentials([(key or b"", certificate or b"")], trusted, require_client_auth=tls.mutual)


class HealthServices:
    """The standard health and reflection services of a server: each of its services by name, and all of them as ""."""

    def __init__(self, server: grpc.aio.Server, names: Sequence[str]) -> None:
        self._servicer = health.aio.HealthServicer()
        self._names = ("", *names)
        self._waited_for = budget.Shares(_HEALTH_PLACES, "health checks")
        request, answer = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
        handlers = {
            "Check": grpc.stream_unary_rpc_method_handler(self._check, request, answer),
            "Watch": grpc.unary_stream_rpc_method_handler(self._servicer.Watch, request, answer),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(health.SERVICE_NAME, handlers),))
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    async def say(self, *, serving: bool) -> None:
        """Say whether calls are welcome."""
        status = health_pb2.HealthCheckResponse
        for name in self._names:
            await self._servicer.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def _check(self, _messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Answer a health check; calls of strangers that send no request must not take the places of others."""
        async with answering(context):
            with self._waited_for.holding(address_of_peer(context)):
                try:
                    async with asyncio.timeout(BODY_SECONDS):
                        request: Any = await context.read()
                except TimeoutError:
                    raise RequestError("too_late", f"no request came within {BODY_SECONDS:.0f} seconds") from None
            if request is grpc.aio.EOF:
                raise RequestError("bad_request", "the call ended without a request")
            return await self._servicer.Check(request, context)


def address_of_peer(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Return the address that a call comes from, without its port."""
    return one_line(context.peer().rpartition(":")[0])


@asynccontextmanager
async def answering(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """End a call with the status of the RequestError that the block raises."""
    try:
        yield
    except RequestError as error:
        await refuse(context, error)


async def refuse(context: grpc.aio.ServicerContext[Any, Any], error: RequestError) -> NoReturn:
    """End a call with the status of an error; the message begins with the field."""
    text = str(error)
    if error.field is not None and not text.startswith(error.field):
        text = f"{error.field}: {text}"
    await context.abort(STATUS[error.code], one_line(text, LONGEST_TEXT))
    raise AssertionError  # abort has raised what ends the call


def serve(
    service: GrpcService,
    name: str,
    host: str,
    port: int,
    guard: Guard,
    more: Mapping[str, Any],
    *,
    max_message_bytes: int,
    max_calls: int,
) -> None:
    """Serve until SIGINT or SIGTERM; prints {"service", "address", …} as the first line when calls are welcome.

    A second signal ends the process at once.
    """

    async def run() -> None:
        # Until there is something to stop, signals have their usual effect: starting may wait for other services.
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        budget.BUDGET.fit(max_message_bytes)
        server = make_server(max_message_bytes, max_calls, guard, UNPACKED)
        address = bind(server, host, port, guard.tls)
        service.attach(server)
        checks = HealthServices(server, service.names)
        try:
            await service.start()
        except BaseException:
            await server.stop(0)  # one that is left as it is may keep the process
            raise
        stopped = _on_signals()
        await server.start()
        await checks.say(serving=True)
        emit(of_services.Serving(address=address))
        write_line(json.dumps({"service": name, "address": address, **more}))
        await stopped.wait()
        await checks.say(serving=False)
        await service.stop()
        await server.stop(GRACE_SECONDS)
        emit(of_services.Stopped())

    asyncio.run(run())


def _on_signals() -> asyncio.Event:
    """Return what is set by the first SIGINT or SIGTERM; the next has its usual effect."""
    asked, loop, numbers = asyncio.Event(), asyncio.get_running_loop(), stop_signals()

    def ask() -> None:
        asked.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, ask)
    return asked
