"""Running a gRPC service: its server and limits, the first line and a shutdown that says goodbye."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health

from rattle.events import emit, of_services
from rattle.output import write_line
from rattle.services.utils import budget
from rattle.services.utils.grpc_health import RESERVED_CALLS, HealthServices
from rattle.services.utils.grpc_refusals import STATUS, refuse
from rattle.services.utils.guard import Guard
from rattle.services.utils.health import tell_address
from rattle.services.utils.server_tls import ServerTls
from rattle.services.utils.sockets import PortTaken, address_of, listen
from rattle.stop_signals import stop_signals
from rattle.wire.problems import RequestError

#: How long calls in progress may continue when the service stops, in seconds.
GRACE_SECONDS = 5.0
#: A client that says nothing is asked after so many seconds whether it lives, and given up when it does not answer.
_ALIVE_AFTER_SECONDS = 20
_ALIVE_WITHIN_SECONDS = 10
#: Clients may ask the same, but not more often.
_ASKED_EVERY_SECONDS = 5

#: The method that says whether a service lives, which anybody may call. Watch keeps a call open, and needs the token.
_HEALTH = f"/{health.SERVICE_NAME}/Check"
#: For servers of large messages: none may be packed, since a small one could become a large one.
UNPACKED = (("grpc.compression_enabled_algorithms_bitset", 1),)


class GrpcService(Protocol):
    """What is served by itself, over gRPC only."""

    #: Full names of its gRPC services, such as "rattle.v1.Training".
    names: Sequence[str]

    def attach(self, server: grpc.aio.Server) -> None:
        """Add its methods to a server."""

    def is_ready(self) -> bool:
        """Whether it can do its work, which is asked while it serves."""

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
            return _refusing(error)
        return None


class _Bounded(grpc.GenericRpcHandler):
    """Asked before all others: refuses what comes when all calls are in use; health checks have calls of their own.

    gRPC itself would refuse these as well.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return what refuses a call, None where there is room for it."""
        if str(handler_call_details.method) == _HEALTH:
            return None
        if self._calls >= self._most:
            return _refusing(RequestError("full", f"all {self._most} calls are in use: end one, or wait"))
        if (call := asyncio.current_task()) is not None:
            self._calls += 1
            call.add_done_callback(self._end)
        return None

    def _end(self, _call: object) -> None:
        self._calls -= 1


def _refusing(error: RequestError) -> grpc.RpcMethodHandler[Any, Any]:
    """Return what refuses a call, and reads nothing of what is sent."""

    async def answer(_messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await refuse(context, error)

    return grpc.stream_stream_rpc_method_handler(answer)


def make_server(
    max_message_bytes: int, max_calls: int, guard: Guard, options: Sequence[tuple[str, int]] = ()
) -> grpc.aio.Server:
    """Return a server with bounds: of a message's size, and of the calls, streams included, that continue at a time.

    Whatever methods are added, those whom the guard does not let pass reach health alone.
    """
    server = grpc.aio.server(
        maximum_concurrent_rpcs=max_calls + RESERVED_CALLS,
        options=[
            *options,
            ("grpc.so_reuseport", 0),  # else two services on one port would share its connections
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_concurrent_streams", max_calls + RESERVED_CALLS),
            ("grpc.http2.bdp_probe", 0),  # else requests that nobody reads yet may send megabytes ahead
            ("grpc.keepalive_time_ms", _ALIVE_AFTER_SECONDS * 1000),
            ("grpc.keepalive_timeout_ms", _ALIVE_WITHIN_SECONDS * 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _ASKED_EVERY_SECONDS * 1000),
        ],
    )
    server.add_generic_rpc_handlers((_Bounded(max_calls), _Guarded(guard)))
    # Generated code adds methods in both ways; what is added in this one would be found before the guard.
    server.add_registered_method_handlers = lambda *_: None  # type: ignore[method-assign]
    return server


def bind(server: grpc.aio.Server, host: str, port: int, guard: Guard | None = None) -> str:
    """Have a server listen, on any free port for 0, and return HOST:PORT; raises ServiceError in one line."""
    tls = None if guard is None else guard.tls
    listen(host, port).close()  # says why not; gRPC itself would write lines of its own to stderr
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        got = server.add_insecure_port(at) if tls is None else server.add_secure_port(at, _credentials(tls))
    except RuntimeError:
        raise PortTaken(f"cannot listen on port {port} of {host}: choose another") from None
    return address_of((guard and guard.name) or host, got)


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    certificate, key, authority = tls.files.read()
    trusted = authority if tls.mutual else None
    return grpc.ssl_server_credentials([(key or b"", certificate or b"")], trusted, require_client_auth=tls.mutual)


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
    beside: Callable[[], AbstractAsyncContextManager[str]] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; prints {"service", "address", …} as the first line when calls are welcome.

    What is served `beside` over HTTP, in the same event loop, is entered then, and gives its URL for the first line.
    A second signal ends the process at once.
    """

    async def run() -> None:
        # Until there is something to stop, signals have their usual effect: starting may wait for other services.
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        budget.BUDGET.fit(max_message_bytes)
        server = make_server(max_message_bytes, max_calls, guard, UNPACKED)
        address = bind(server, host, port, guard)
        service.attach(server)
        checks = HealthServices(server, service.names, max_message_bytes, service.is_ready)
        try:
            await service.start()
        except BaseException:
            await server.stop(0)  # one that is left as it is may keep the process
            raise
        stopped = _on_signals()
        await server.start()
        await checks.say(serving=True)
        emit(of_services.Serving(address=address))
        tell_address("grpc", host, int(address.rpartition(":")[2]), guard.tls, service.names[0])
        async with AsyncExitStack() as stack:
            also = {} if beside is None else {"url": await stack.enter_async_context(beside())}
            write_line(json.dumps({"service": name, "address": address, **also, **more}))
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
