"""Running an ASGI service: its socket, its first line, idle connections and a shutdown that says goodbye."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

import uvicorn
import uvloop

from rattle.events import emit, of_services
from rattle.output import write_line
from rattle.services.utils import budget
from rattle.services.utils.asgi import Receive, Scope, Send, peer_of, refuse
from rattle.services.utils.connections import IDLE_SECONDS, BoundedHttpConnection, SocketConnection
from rattle.services.utils.guard import Guard
from rattle.services.utils.health import tell_address
from rattle.services.utils.peers import CONNECTIONS
from rattle.services.utils.sockets import BACKLOG, ServiceError, url_of
from rattle.stop_signals import stop_signals
from rattle.telemetry.pipe import pipe
from rattle.wire.problems import RequestError

#: Objects that may be made and not freed before the process looks for garbage.
_GARBAGE_OBJECTS = 50_000
#: How long open requests may go on when the service stops, in seconds.
GRACE_SECONDS = 5
_GOODBYE_SECONDS = 0.5


class HttpService(Protocol):
    """What is served."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""

    async def start(self) -> None:
        """Called when the service has its address and before the first request."""

    async def stop(self) -> None:
        """Called before connections are closed: streams end here."""


class _Process:
    """What becomes of this process, which serves one service."""

    serves = False
    problem: str | None = None


def end_service(problem: str) -> None:
    """Have the service of this process, if it serves one, stop as after SIGTERM, and the process end with this error.

    May be called in any thread.
    """
    if _Process.serves:
        _Process.problem = problem
        os.kill(os.getpid(), signal.SIGTERM)


class _Loop(uvloop.Loop):
    """Waits no longer than is needed for clients to agree that a connection with TLS ends: most never say so."""

    async def create_server(self, *given: Any, **named: Any) -> asyncio.AbstractServer:  # type: ignore[override]
        """Return a server, as asyncio describes it."""
        if named.get("ssl"):
            named["ssl_shutdown_timeout"] = _GOODBYE_SECONDS
        return await super().create_server(*given, **named)


class _UvicornServer(uvicorn.Server):
    """Calls `welcome` when it serves; without `signals`, who has made it says when it is to stop."""

    def __init__(
        self, config: uvicorn.Config, service: HttpService, welcome: Callable[[], None], *, signals: bool = True
    ) -> None:
        super().__init__(config)
        self._service = service
        self._welcome = welcome
        self._signals = signals

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop in peace on SIGINT and SIGTERM, and end with 0: uvicorn would raise the signal again."""
        if not self._signals:
            yield
            return
        loop, signals = asyncio.get_running_loop(), stop_signals()
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield
        for number in signals:
            loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._welcome()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, BoundedHttpConnection):
                connection.refuse_bodies()
        await self._service.stop()
        await super().shutdown(sockets)


def serve(
    service: HttpService,
    name: str,
    listener: socket.socket,
    guard: Guard,
    max_connections: int,
    more: Mapping[str, Any],
    max_message_bytes: int = 2**24,
) -> None:
    """Serve until SIGINT or SIGTERM; prints {"service", "url", …} as the first line when requests are welcome."""
    budget.BUDGET.fit(max_message_bytes)
    tls = guard.tls
    url = url_of(listener, guard.name, tls=tls is not None)

    def welcome() -> None:
        emit(of_services.Serving(address=url))
        host, port = listener.getsockname()[:2]
        tell_address("http", host, port, tls)
        write_line(json.dumps({"service": name, "url": url, **more}))

    async def run() -> None:
        await service.start()
        _Process.serves = True
        await server.serve(sockets=[listener])

    config = _guarded_config(service, guard, max_connections, max_message_bytes)
    server = _UvicornServer(config, service, welcome)
    # What still runs in a thread after all patience would keep the process for ever.
    last_resort = threading.Timer(GRACE_SECONDS, _leave_at_once)
    last_resort.daemon = True
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(run())
        last_resort.start()
    last_resort.cancel()
    emit(of_services.Stopped())
    if _Process.problem is not None:
        raise ServiceError(_Process.problem)


def _guarded_config(service: HttpService, guard: Guard, max_connections: int, max_message_bytes: int) -> uvicorn.Config:
    """Return how a service is served to those whom the guard lets pass, and to so many at a time."""
    _raise_file_limit(max_connections)
    CONNECTIONS.limit = max_connections
    protected = guard.protect(service)

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if CONNECTIONS.have_room_for(peer_of(scope)):
            await protected(scope, receive, send)
            return
        used = f"of {max_connections} connections {CONNECTIONS.used} are in use"
        full = RequestError("full", f"{used}: close one, or wait")
        await refuse(scope, receive, send, full, close=True)

    config = server_config(guarded, max_message_bytes)
    config.load()
    config.ssl = None if guard.tls is None else guard.tls.context
    return config


@asynccontextmanager
async def serving_beside(
    service: HttpService, listener: socket.socket, guard: Guard, max_connections: int
) -> AsyncIterator[str]:
    """Serve in this event loop, beside what else it does, until the block ends; yields the URL.

    `service.start` is not called: whoever serves something else has begun its work.
    """
    begun = asyncio.Event()
    config = _guarded_config(service, guard, max_connections, 2**16)
    server = _UvicornServer(config, service, begun.set, signals=False)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    serving.add_done_callback(lambda _: begun.set())  # an error is raised below
    try:
        await begun.wait()
        yield url_of(listener, guard.name, tls=guard.tls is not None)
    finally:
        server.should_exit = True
        await serving


def _leave_at_once() -> None:
    pipe.settle(1.0)
    os._exit(0 if _Process.problem is None else 1)


def server_config(app: Callable[[Scope, Receive, Send], Any], max_message_bytes: int) -> uvicorn.Config:
    """Return how services are served: connections with bounds, WebSockets, no logs of requests."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedHttpConnection,
        ws=SocketConnection,
        ws_per_message_deflate=False,
        ws_max_size=max_message_bytes,
        ws_ping_timeout=None,  # an actor answers no ping while it waits for a policy, however long that takes
        lifespan="off",
        log_config=None,  # its messages go where all go
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # anybody on this machine could invent an address, and have the places of many
        timeout_keep_alive=int(IDLE_SECONDS),
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=BACKLOG,
    )


def freeze_gc() -> None:
    """Look through what is loaded for garbage now, and never again.

    To do it again and again would hold up everything for 60 to 170 ms at a time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS, 20, 20)


def _raise_file_limit(wanted: int) -> None:
    """Let the process have a file for every connection, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted += 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
