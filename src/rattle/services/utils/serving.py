"""Running an ASGI service: its socket, its first line, idle connections and a shutdown that says goodbye."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rattle.errors import RattleError
from rattle.services.utils.asgi import Receive, Scope, Send

#: A connection that asks nothing for this long is closed, in seconds.
IDLE_SECONDS = 75
#: How long open requests may go on when the service stops, in seconds.
GRACE_SECONDS = 5
_BACKLOG = 2048


class ServiceError(RattleError):
    """A service cannot run."""


class Service(Protocol):
    """What is served."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""

    async def start(self) -> None:
        """Called when the service has its address and before the first request."""

    async def stop(self) -> None:
        """Called before connections are closed: streams end here."""


class _IdleClosing(HttpToolsProtocol):
    """Closes connections that never ask anything: the server itself waits for ever for a first request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(IDLE_SECONDS, self.timeout_keep_alive_handler)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop in peace on SIGINT and SIGTERM, and end with 0: uvicorn would raise the signal again."""
        loop, signals = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield
        for number in signals:
            loop.remove_signal_handler(number)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._service.stop()
        await super().shutdown(sockets)


def listen(host: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Return a bound socket; raises ServiceError in one line when the address cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind)
        if kind == socket.SOCK_STREAM:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ServiceError(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port") from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the http URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{port}"


def serve(service: Service, name: str, listener: socket.socket, max_connections: int, more: Mapping[str, Any]) -> None:
    """Serve until SIGINT or SIGTERM; prints {"service", "url", …} as the first line when requests are welcome."""
    _raise_file_limit(max_connections)
    listener.listen(_BACKLOG)
    config = uvicorn.Config(
        service,
        loop="uvloop",
        http=_IdleClosing,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_max_size=2**24,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=max_connections,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=_BACKLOG,
    )

    async def run() -> None:
        await service.start()
        sys.stdout.write(json.dumps({"service": name, "url": url_of(listener), **more}) + "\n")
        sys.stdout.flush()
        await _Server(config, service).serve(sockets=[listener])

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())


def _raise_file_limit(wanted: int) -> None:
    """Let the process have a file for every connection, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted += 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
