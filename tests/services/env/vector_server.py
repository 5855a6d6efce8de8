"""A real Env service in a thread, and a client that shows what comes over the socket."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import msgspec
import numpy as np
import uvicorn
from websockets.sync.client import ClientConnection, connect

from rattle.services.env.app import EnvService
from rattle.services.utils.serving import server_config
from rattle.services.utils.sockets import listen
from rattle.settings.sources import load_settings

PATIENCE = 60.0  # seconds that something may take on a busy machine
JSON = {"Content-Type": "application/json"}
MSGPACK = {"Content-Type": "application/msgpack"}


@dataclass(frozen=True)
class Answer:
    """What came back, with header names in lower case."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        decode = msgspec.msgpack.decode if "msgpack" in self.headers.get("content-type", "") else msgspec.json.decode
        return decode(self.raw)

    def problem(self, code: str) -> dict[str, Any]:
        """Return the problem that this must be."""
        assert self.headers["content-type"] == "application/problem+json", self.raw
        problem: dict[str, Any] = self.body
        assert problem["code"] == code, problem
        assert problem["status"] == self.status
        assert problem["error"] == problem["detail"]
        return problem


class VectorServer:
    """Where the service is, and the service for looks inside."""

    def __init__(self, service: EnvService, port: int) -> None:
        self.service = service
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send what is not bytes as JSON."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            headers = dict(headers or {})
            if body is not None and not isinstance(body, bytes):
                body = msgspec.json.encode(body)
                headers.setdefault("Content-Type", JSON["Content-Type"])
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())
        finally:
            connection.close()

    def create(self, **request: Any) -> dict[str, Any]:
        answer = self.ask("POST", "/v1/sessions", {"worlds": 2, "seed": 1} | request)
        assert answer.status == 201, answer.raw
        created: dict[str, Any] = answer.body
        return created

    def session(self, **request: Any) -> str:
        """Make a session and return its path."""
        return f"/v1/sessions/{self.create(**request)['session']}"

    def step(self, session: str, number: int, action: list[int]) -> Answer:
        return self.ask("POST", f"{session}/step", {"step": number, "action": action})

    def socket(self, session: str) -> ClientConnection:
        return connect(
            f"ws://127.0.0.1:{self.port}{session}/ws", compression=None, open_timeout=PATIENCE, max_size=2**28
        )

    def metric(self, name: str) -> float:
        """Return a number of /metrics by its name and labels."""
        for line in self.ask("GET", "/metrics").raw.decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        raise KeyError(name)


def array(values: Any) -> np.ndarray[Any, Any]:
    """Return an array of a MessagePack answer, or a list of a JSON one, as an array."""
    if isinstance(values, dict):
        return np.frombuffer(values["data"], values["dtype"]).reshape(values["shape"])
    return np.array(values)


def packed(values: Any, dtype: str) -> dict[str, Any]:
    made = np.array(values, dtype)
    return {"dtype": dtype, "shape": list(made.shape), "data": made.tobytes()}


@contextmanager
def serving(*overrides: str) -> Iterator[VectorServer]:
    """Serve until the block ends, then stop in peace."""
    service = EnvService(load_settings(None, list(overrides), {}))
    listener = listen("127.0.0.1", 0)
    config = server_config(service, service.settings.env_service.max_body_bytes)
    config.log_level = "critical"
    server = uvicorn.Server(config)

    async def run() -> None:
        await service.start()
        await server.serve([listener])
        await service.stop()

    def work() -> None:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(run())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield VectorServer(service, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition, and fail when it does not come true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)
