"""A service that has only operators to answer over HTTP: where it stands, health and metrics. Plain ASGI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Metric

from rattle.services.utils.asgi import Receive, Scope, Send, answer, answer_problem, decline, exposition
from rattle.services.utils.guard import Guard
from rattle.services.utils.serving import freeze_gc
from rattle.wire import encoding
from rattle.wire.problems import RequestError

_PATHS = ("/v1/status", "/healthz", "/readyz", "/metrics")


class Operated(Protocol):
    """What does the work of a service, in threads or tasks of its own."""

    def start(self) -> None:
        """Begin to work."""

    def stop(self) -> None:
        """Stop, and wait until it has stopped."""

    def check_ready(self) -> None:
        """Raise RequestError while the work cannot be done."""

    def status(self) -> dict[str, Any]:
        """Return where it stands, ready for JSON."""

    def collect(self) -> Iterator[Metric]:
        """Yield its numbers for Prometheus."""


class StatusService:
    """What operators ask (ASGI)."""

    def __init__(self, operated: Operated, guard: Guard) -> None:
        self._operated = operated
        self._registry = CollectorRegistry()
        self._registry.register(operated)
        self._registry.register(guard.refused)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        path: str = scope["path"]
        if scope["type"] == "websocket":
            await decline(receive, send, RequestError("unknown_path", "there are no WebSockets here"))
            return
        try:
            if path not in _PATHS:
                raise RequestError("unknown_path", f"there is no {path[:80]}: the routes are {', '.join(_PATHS)}")
            if scope["method"] not in ("GET", "HEAD"):
                raise RequestError("wrong_method", f"{path} takes GET, not {scope['method'][:20]}", allow="GET")
            await answer(send, 200, *self._answer(scope))
        except RequestError as error:
            await answer_problem(send, error)

    def _answer(self, scope: Scope) -> tuple[str, bytes]:
        """Return the media type and the body of an answer."""
        match scope["path"]:
            case "/v1/status":
                return encoding.JSON, encoding.json.encode(self._operated.status())
            case "/readyz":
                self._operated.check_ready()
                return encoding.JSON, b'{"status":"ready"}'
            case "/metrics":
                return exposition(self._registry, scope)
        return encoding.JSON, b'{"status":"ok"}'

    async def start(self) -> None:
        """Begin to work."""
        freeze_gc()
        self._operated.start()

    async def stop(self) -> None:
        """Stop working."""
        self._operated.stop()
