"""The Env service as one ASGI application."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from rattle.envs.registry import make_worlds
from rattle.envs.vector import VectorWorlds
from rattle.services.env.metrics import Metrics
from rattle.services.env.sessions import SessionLimits, Sessions
from rattle.services.env.vector_routes import PREFIX, VectorFace
from rattle.services.utils.asgi import Receive, Scope, Send, header
from rattle.trainer.settings import ExperimentSettings
from rattle.wire import encoding
from rattle.wire.problems import PROBLEM_TYPE, RequestError, problem_body
from rattle.wire.vector import PROTOCOL, describe

SERVICE = "rattle env"


class EnvService:
    """Both faces of an environment, with health, metrics and the page of routes; an ASGI application."""

    def __init__(self, settings: ExperimentSettings) -> None:
        own = settings.env_service
        self.settings = settings
        self.metrics = Metrics()
        limits = SessionLimits(own.max_sessions, own.max_worlds, own.max_memory_bytes, own.session_seconds)
        self.sessions = Sessions(self._make_worlds, limits)
        self.vector = VectorFace(self.sessions, self.metrics, own.max_body_bytes)
        self.ready = False
        self._cold = self._cold_routes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer: sessions directly, all else through FastAPI."""
        path: str = scope.get("path", "")
        if scope["type"] == "websocket":
            await self.vector.socket(scope, receive, send)
        elif path.startswith(PREFIX) and (len(path) == len(PREFIX) or path[len(PREFIX)] == "/"):
            await self.vector.http(scope, receive, send)
        else:
            await self._cold(scope, receive, send)

    async def start(self) -> None:
        """Compile what stepping needs, and let the clock of the agent API run."""
        worlds = self._make_worlds({}, 1, 0, 0)
        worlds.step(np.zeros(worlds.num_slots, np.int64))
        worlds.close()
        self.ready = True

    async def stop(self) -> None:
        """Give every stream its last line and close the sessions."""
        self.ready = False
        await self.vector.close()

    def _make_worlds(self, options: Mapping[str, Any], worlds: int, seed: int, first_world: int) -> VectorWorlds:
        env = self.settings.env
        # Options come from clients: they may change settings, and name no code.
        return make_worlds(
            env.id, {**env.own_settings, **options}, worlds, seed, first_world, allow_imports=not options
        )

    def _cold_routes(self) -> FastAPI:
        app = FastAPI(title="Rattle Env service", version=version("rattle"), docs_url=None, redoc_url=None)

        @app.exception_handler(HTTPException)
        async def say_problem(request: Request, error: HTTPException) -> Response:
            if error.status_code == 405:
                allow = (error.headers or {}).get("Allow", "GET")
                return _problem(RequestError("wrong_method", f"{request.url.path} takes {allow}", allow=allow))
            return _problem(RequestError("unknown_path", f"there is no {request.url.path}: /docs lists the routes"))

        @app.get("/v1/spec", tags=["vector"])
        async def spec(request: Request) -> Response:
            try:
                spoken = encoding.of_answer(header(request.scope, b"accept"), encoding.json)
            except RequestError as error:
                return _problem(error)
            return Response(spoken.encode(self.describe()), media_type=spoken.media_type)

        @app.get("/healthz", tags=["operation"])
        async def healthz() -> dict[str, str]:
            return {"status": "ok"}

        @app.get("/readyz", tags=["operation"])
        async def readyz() -> Response:
            if not self.ready:
                return _problem(RequestError("shutting_down", "the service is starting or stopping"))
            return Response(b'{"status":"ready"}', media_type=encoding.JSON)

        @app.get("/metrics", tags=["operation"])
        async def metrics() -> Response:
            return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

        return app

    def describe(self) -> dict[str, Any]:
        """Return what GET /v1/spec answers."""
        limits = self.sessions.limits
        return {
            "protocol": PROTOCOL,
            "service": SERVICE,
            "version": version("rattle"),
            **describe(self.sessions.spec),
            "features": ["websocket", "state", "snapshot", "options"],
            "limits": {
                "sessions": limits.sessions,
                "worlds": limits.worlds,
                "body_bytes": self.settings.env_service.max_body_bytes,
                "session_seconds": limits.unused_seconds,
            },
        }


def _problem(error: RequestError) -> Response:
    headers = {"Allow": error.more["allow"]} if "allow" in error.more else None
    return Response(problem_body(error), error.status, headers, PROBLEM_TYPE)
