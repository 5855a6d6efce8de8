"""A real server of the agent API in a thread, and a client that shows what comes over the socket."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import uvicorn

from rattle.envs.snake.settings import SnakeSettings
from rattle.services.env.agent_routes import AgentFace
from rattle.services.utils.sockets import listen
from rattle.settings.services import EnvServiceSection, SyncSection

PATIENCE = 60.0  # seconds that something may take on a busy machine
#: A board that a snake going forward lives on for ever: there is nothing but food in its way.
ENDLESS = {"width": 100, "height": 100, "max_steps_without_food": 0}


class _Server(uvicorn.Server):
    face: AgentFace

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.face.start()
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.face.stop()
        await super().shutdown(sockets)


@dataclass
class Stream:
    """A response that streams."""

    connection: HTTPConnection
    response: HTTPResponse

    def line(self) -> dict[str, Any]:
        text = self.response.readline()
        assert text.endswith(b"\n"), "the stream has ended"
        content: dict[str, Any] = json.loads(text)
        return content

    def ticks(self, count: int) -> list[int]:
        return [self.line()["tick"] for _ in range(count)]

    def rest(self) -> list[dict[str, Any]]:
        """Read to the end, which must be a proper one."""
        return [json.loads(line) for line in self.response.read().splitlines()]

    def reset_connection(self) -> None:
        """Close so that the other side gets a TCP reset."""
        handle = self.connection.sock
        assert handle is not None
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.response.close()
        self.connection.close()


class AgentServer:
    """Where the server is, and its face for looks inside."""

    def __init__(self, face: AgentFace, port: int) -> None:
        self.face = face
        self.port = port
        self.begin_shutdown: Callable[[], None] = lambda: None
        self._connections: list[HTTPConnection] = []

    def connect(self, receive_buffer: int | None = None) -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        if receive_buffer is not None:
            handle = socket.socket()
            handle.settimeout(PATIENCE)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            handle.connect(("127.0.0.1", self.port))
            connection.sock = handle
        self._connections.append(connection)
        return connection

    def follow(
        self, snake_id: str, query: str = "", connection: HTTPConnection | None = None, buffer: int | None = None
    ) -> Stream:
        connection = connection or self.connect(buffer)
        connection.request("GET", f"/snake/{snake_id}{query}")
        response = connection.getresponse()
        assert response.status == 200, response.read()
        return Stream(connection, response)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Return status, headers in lower case and the decoded body; a POST is JSON unless `headers` say otherwise."""
        connection = self.connect()
        json_type = {"Content-Type": "application/json"} if method == "POST" else {}
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, raw, json_type | (headers or {}))
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return (
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            json.loads(text) if text else None,
        )

    def move(self, snake_id: str, move: str = "forward") -> dict[str, Any]:
        status, _, content = self.ask("POST", f"/snake/{snake_id}/move", {"move": move})
        assert status == 200
        return dict(content)

    def agents(self) -> int:
        return int(self.ask("GET", "/")[2]["agents"])

    def close_connections(self) -> None:
        for connection in self._connections:
            connection.close()


@contextmanager
def serving(
    snake: dict[str, Any] | None = None, sync: SyncSection | None = None, **settings: Any
) -> Iterator[AgentServer]:
    """Serve until the block ends, then stop in peace."""
    face = AgentFace(EnvServiceSection(**settings), SnakeSettings(**(snake or ENDLESS)), 1, sync)
    listener = listen("127.0.0.1", 0)
    listener.listen(100)
    config = uvicorn.Config(
        face, loop="uvloop", http="httptools", lifespan="off", log_level="critical", timeout_graceful_shutdown=5
    )
    server = _Server(config)
    server.face = face
    agent_server = AgentServer(face, listener.getsockname()[1])

    def shut_down() -> None:
        server.should_exit = True

    agent_server.begin_shutdown = shut_down

    def run() -> None:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve([listener]))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield agent_server
    finally:
        shut_down()
        agent_server.close_connections()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition, and fail when it does not come true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)
