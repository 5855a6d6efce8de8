"""The Inference service: what is served over HTTP and gRPC in one event loop, and where its policies come from."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

import grpc

from rattle.services.inference.metrics import InferenceMetrics
from rattle.services.inference.serving.dataplane import DataPlane
from rattle.services.inference.serving.grpc_servicer import NAME, GrpcFace
from rattle.services.inference.serving.models import Models
from rattle.services.inference.serving.rest import RestFace
from rattle.services.inference.serving.sequences import SequenceTable
from rattle.services.utils import budget
from rattle.services.utils.asgi import App, Receive, Scope, Send, answer, answer_problem, decline, exposition
from rattle.services.utils.grpc_health import HealthServices
from rattle.services.utils.grpc_serving import GRACE_SECONDS, bind, make_server
from rattle.services.utils.guard import Guard
from rattle.services.utils.serving import freeze_gc
from rattle.settings.services import InferenceSection
from rattle.wire import encoding
from rattle.wire.problems import RequestError


class PolicySource(Protocol):
    """Where policies come from: it publishes them, again and again, from threads of its own."""

    def start(self) -> None:
        """Begin to publish."""

    def stop(self) -> None:
        """Stop, and wait until it has stopped; may take a while."""


_OPERATION = ("/healthz", "/readyz", "/metrics")


class InferenceService:
    """Both faces of what is served, health, metrics and the control of what plays (ASGI)."""

    def __init__(
        self,
        settings: InferenceSection,
        models: Models,
        source: PolicySource,
        guard: Guard,
        control: App | None = None,
    ) -> None:
        self.metrics = InferenceMetrics()
        self.metrics.registry.register(guard.refused)
        sequences = SequenceTable(
            settings.max_sequences,
            settings.max_sequence_bytes,
            settings.sequence_seconds,
            time.monotonic,
            self.metrics.expired_sequence,
        )
        self.plane = DataPlane(models, self.metrics, settings.max_queue, sequences)
        self.metrics.watch(self.plane.versions, self.plane.waiting_rows, self.plane.running_rows, sequences.counts)
        #: What the first line says in addition to the URL; known when the service has started.
        self.hello: dict[str, Any] = {}
        self._settings = settings
        self._source = source
        self._guard = guard  # of what is asked over gRPC; who serves this guards it over HTTP
        self._control = control
        self._rest = RestFace(self.plane, self.metrics, settings.max_body_bytes)
        self._face: GrpcFace | None = None
        self._grpc: grpc.aio.Server | None = None
        self._health: HealthServices | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        path: str = scope["path"]
        if scope["type"] == "websocket":
            await decline(receive, send, RequestError("unknown_path", "there are no WebSockets here"))
        elif path.startswith(("/v2", "/v1/models")):
            await self._rest(scope, receive, send)
        elif path.startswith(("/v1/agents", "/v1/history")) and self._control is not None:
            await self._control(scope, receive, send)
        else:
            await self._operation(scope, send)

    async def _operation(self, scope: Scope, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        try:
            if path in _OPERATION and method not in ("GET", "HEAD"):
                raise RequestError("wrong_method", f"{path} takes GET, not {method[:20]}", allow="GET")
            match path:
                case "/healthz":
                    await answer(send, 200, encoding.JSON, b'{"status":"ok"}')
                case "/readyz":
                    self.plane.check_ready()
                    await answer(send, 200, encoding.JSON, b'{"status":"ready"}')
                case "/metrics":
                    await answer(send, 200, *exposition(self.metrics.registry, scope))
                case _:
                    raise RequestError("unknown_path", f"there is no {path[:80]}: docs/serving.md lists the routes")
        except RequestError as error:
            await answer_problem(send, error)

    async def start(self) -> None:
        """Listen for gRPC, and let policies come."""
        own = self._settings
        budget.BUDGET.fit(own.max_body_bytes)
        self._grpc = make_server(own.max_body_bytes, own.max_connections, self._guard)
        address = bind(self._grpc, own.host, own.grpc_port, self._guard)
        self._face = GrpcFace(self.plane, self.metrics, own.max_body_bytes)
        self._face.attach(self._grpc)
        self._health = HealthServices(self._grpc, [NAME], own.max_body_bytes, self.plane.is_ready)
        await asyncio.to_thread(self._source.start)
        await self._health.say(serving=True)
        await self._grpc.start()
        freeze_gc()
        self.hello |= {"grpc": address, "models": list(self.plane.versions())}

    async def stop(self) -> None:
        """Say that the service is going, let calls in progress end, and stop what plays."""
        self.plane.close()
        if self._grpc is not None and self._health is not None and self._face is not None:
            self._face.close()
            await self._health.say(serving=False)
            await asyncio.gather(self._grpc.stop(GRACE_SECONDS), asyncio.to_thread(self._source.stop))
