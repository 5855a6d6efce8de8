"""The Env service with a fault put before it: requests, answers, lines and messages pass through hooks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from rattle.services.env.app import EnvService
from rattle.settings.sources import load_settings

Body = dict[str, Any]
JSON, MSGPACK, PROBLEM = "application/json", "application/msgpack", "application/problem+json"


@dataclass
class Exchange:
    """A request on its way in, and its answer on its way out; hooks change them."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes
    status: int = 0
    answer_type: str = ""
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b""

    @property
    def route(self) -> str:
        """The path without ids, such as `session/step`, `session` for the session itself, `snake/move` and `/`."""
        if not self.path.startswith("/v1/"):
            parts = self.path.strip("/").split("/")
            return "/".join([parts[0], *parts[2:]]) or "/"
        parts = self.path.removeprefix("/v1/").split("/")
        return parts[0] if len(parts) == 1 else "/".join(["session", *parts[2:]])

    @property
    def body(self) -> Any:
        """The request as an object, None where it cannot be read."""
        return _decode(self.headers.get("content-type", ""), self.content)

    @body.setter
    def body(self, value: Any) -> None:
        self.content = _encode(self.headers.get("content-type", ""), value)

    @property
    def reply(self) -> Any:
        """The answer as an object."""
        return _decode(self.answer_type, self.answer)

    @reply.setter
    def reply(self, value: Any) -> None:
        self.answer = _encode(self.answer_type, value)


@dataclass
class Fault:
    """What a broken server does otherwise; `state` is its memory."""

    request: Callable[[Exchange, Body], None] = lambda exchange, state: None
    answer: Callable[[Exchange, Body], None] = lambda exchange, state: None
    #: Changes WebSocket messages: (direction, message, state) -> messages that go on.
    socket: Callable[[str, Body, Body], list[Body]] = lambda direction, message, state: [message]
    #: Changes lines of streams: (line, state) -> lines that go on.
    line: Callable[[Body, Body], list[Body]] = lambda line, state: [line]
    #: Changes the head of a stream.
    head: Callable[[Exchange, Body], None] = lambda exchange, state: None
    #: Leaves streams open after their last line.
    endless: bool = False
    #: Waits for whole bodies before anything else.
    patient: bool = False
    #: Told of a request that was cut.
    cut: Callable[[Exchange, Body], Exchange | None] = lambda exchange, state: None


class Broken:
    """An ASGI application: the Env service behind a fault."""

    def __init__(self, fault: Fault, *overrides: str) -> None:
        self.app = EnvService(load_settings(None, [*overrides], {}))
        self.fault = fault
        self.state: Body = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await self.app.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.app.stop()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        elif scope["path"].startswith("/snake/") and scope["method"] == "GET":
            await self._stream(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        exchange = Exchange(scope["method"], scope["path"], headers, b"")
        if int(headers.get("content-length", 0)) > 2**15 and not self.fault.patient:
            await self.app(scope, receive, send)
            return
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                replaced = self.fault.cut(exchange, self.state)
                if replaced is not None:
                    await self._pass(scope, replaced)
                return
            exchange.content += message.get("body", b"")
            more = message.get("more_body", False)
        self.fault.request(exchange, self.state)
        if not exchange.status:
            await self._pass(scope, exchange)
        await self._answer(exchange, send)

    async def _answer(self, exchange: Exchange, send: Any) -> None:
        self.fault.answer(exchange, self.state)
        answered = {**exchange.answer_headers, "content-length": str(len(exchange.answer))}
        if exchange.answer_type:
            answered["content-type"] = exchange.answer_type
        raw = [(key.encode(), value.encode()) for key, value in answered.items()]
        await send({"type": "http.response.start", "status": exchange.status, "headers": raw})
        await send({"type": "http.response.body", "body": exchange.answer})

    async def _stream(self, scope: Any, receive: Any, send: Any) -> None:
        """Have the service stream; an answer that is no stream goes the way of the others."""
        exchange = Exchange("GET", scope["path"], {}, b"")
        self.fault.request(exchange, self.state)
        if exchange.status:
            await self._answer(exchange, send)
            return

        async def outward(message: Body) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                exchange.answer_headers = {key.decode().lower(): value.decode() for key, value in message["headers"]}
                exchange.answer_type = exchange.answer_headers.pop("content-type", "")
                if exchange.status != 200:
                    exchange.answer_headers.pop("content-length", None)
                    return
                self.fault.head(exchange, self.state)
                raw = {**exchange.answer_headers, "content-type": exchange.answer_type}
                headers = [(key.encode(), value.encode()) for key, value in raw.items()]
                await send({**message, "headers": headers})
            elif exchange.status != 200:
                exchange.answer += message.get("body", b"")
            else:
                lines = [msgspec.json.decode(line) for line in message.get("body", b"").splitlines()]
                changed = [new for line in lines for new in self.fault.line(line, self.state)]
                body = b"".join(msgspec.json.encode(line) + b"\n" for line in changed)
                more = message.get("more_body", False) or self.fault.endless
                await send({**message, "body": body, "more_body": more})

        await self.app({**scope, "path": exchange.path, "raw_path": exchange.path.encode()}, receive, outward)
        if exchange.status != 200:
            await self._answer(exchange, send)
        while self.fault.endless and (await receive())["type"] != "http.disconnect":
            pass

    async def _pass(self, scope: Any, exchange: Exchange) -> None:
        """Have the service answer."""
        headers = {**exchange.headers, "content-length": str(len(exchange.content))}
        raw = [(key.encode(), value.encode()) for key, value in headers.items()]
        pending = [{"type": "http.request", "body": exchange.content, "more_body": False}]

        async def receive() -> Body:
            if pending:
                return pending.pop()
            await asyncio.sleep(3600)
            return {}

        async def send(message: Body) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                found = {key.decode().lower(): value.decode() for key, value in message["headers"]}
                exchange.answer_type = found.pop("content-type", "")
                found.pop("content-length", None)
                exchange.answer_headers = found
            else:
                exchange.answer += message.get("body", b"")

        await self.app(
            {**scope, "path": exchange.path, "raw_path": exchange.path.encode(), "headers": raw}, receive, send
        )

    async def _socket(self, scope: Any, receive: Any, send: Any) -> None:
        waiting: list[Body] = []

        async def inward() -> Body:
            while not waiting:
                waiting.extend(self.fault.socket("in", await receive(), self.state))
            return waiting.pop(0)

        async def outward(message: Body) -> None:
            for changed in self.fault.socket("out", message, self.state):
                await send(changed)

        await self.app(scope, inward, outward)
        while self.state.get("stay open") and (await receive())["type"] != "websocket.disconnect":
            pass


def _decode(media_type: str, content: bytes) -> Any:
    try:
        if media_type.startswith(MSGPACK):
            return msgspec.msgpack.decode(content)
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _encode(media_type: str, value: Any) -> bytes:
    return msgspec.msgpack.encode(value) if media_type.startswith(MSGPACK) else msgspec.json.encode(value)


def edited(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return an array of a message changed, in the form that it had."""
    if isinstance(value, list):
        return change(np.array(value)).tolist()
    array = np.frombuffer(value["data"], value["dtype"]).reshape(value["shape"]).copy()
    array = change(array)
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": array.tobytes()}


def read(value: Any) -> Any:
    """Return an array of a message."""
    return (
        np.array(value)
        if isinstance(value, list)
        else np.frombuffer(value["data"], value["dtype"]).reshape(value["shape"])
    )
