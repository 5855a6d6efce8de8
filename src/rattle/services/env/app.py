"""The Env service as one ASGI application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from rattle import __version__
from rattle.envs.snake.settings import SnakeSettings
from rattle.envs.validation import validated
from rattle.envs.vector import EnvironmentSpec
from rattle.services.env.agent_routes import AgentFace, NoAgentApi, agent_routes
from rattle.services.env.metrics import EnvMetrics
from rattle.services.env.openapi import describe as describe_routes
from rattle.services.env.session_worlds import SessionWorlds
from rattle.services.env.sessions import SessionLimits, Sessions
from rattle.services.env.vector_routes import PREFIX, VectorFace
from rattle.services.env.watch_routes import watch_routes
from rattle.services.utils.asgi import Receive, Scope, Send, as_get, exposition, header
from rattle.services.utils.docs_page import docs_routes
from rattle.settings.experiment import ExperimentSettings
from rattle.wire import encoding
from rattle.wire.problems import PROBLEM_TYPE, RequestError, problem_body
from rattle.wire.vector import describe, protocol_of

SERVICE = "rattle env"
TITLE = "Rattle Env service"


class EnvService:
    """Both faces of an environment, with health, metrics, the watch page and the page of routes (ASGI)."""

    def __init__(self, settings: ExperimentSettings) -> None:
        own = settings.env_service
        self.settings = settings
        limits = SessionLimits(own.max_sessions, own.max_worlds, own.max_memory_bytes, own.session_seconds)
        self._make_worlds = SessionWorlds(settings)
        self.sessions = Sessions(self._make_worlds, limits)
        self.agents = self._agent_face()
        self.metrics = EnvMetrics(self.sessions, self.agents)
        self.vector = VectorFace(self.sessions, self.metrics, own.max_body_bytes)
        self.state: Literal["starting", "ready", "shutting_down"] = "starting"
        self._cold = self._cold_routes()
        self._closing_unused: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer: sessions and snakes directly, all else through FastAPI."""
        path: str = scope.get("path", "")
        if scope["type"] == "websocket":
            await self.vector.socket(scope, receive, send)
        elif path == PREFIX or path.startswith(f"{PREFIX}/"):
            await self.vector.http(as_get(scope), receive, send)
        elif self.agents is not None and path.startswith("/snake/"):
            await self._timed("agent", self.agents, scope, receive, send)
        else:
            api = "agent" if path in ("/", "/state", "/reset", "/v1/history") else "operation"
            await self._timed(api, self._cold, as_get(scope), receive, send)

    async def _timed(self, api: str, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request and time it up to its first bytes; streams are written to past this."""
        if scope["path"].startswith("/snake/") and scope["method"] == "GET":
            await app(scope, receive, send)
            return
        began = time.perf_counter()

        async def noticing(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.metrics.request(api, message["status"], time.perf_counter() - began)
            await send(message)

        await app(scope, receive, noticing)

    async def start(self) -> None:
        """Compile what stepping needs, and let the clock of the agent API run."""
        worlds = self._make_worlds({}, 1, 0, 0)
        space = worlds.spec.action_space
        zeros = space.zeros(worlds.num_slots)
        worlds.step(worlds.spec.observation_space.allow(worlds.observation, zeros, space.choices))
        worlds.close()
        if self.agents is not None:
            await self.agents.start()
        self._closing_unused = asyncio.create_task(self._close_unused())
        self.state = "ready"

    async def stop(self) -> None:
        """Give every stream its last line and close the sessions."""
        self.state = "shutting_down"
        if self._closing_unused is not None:
            self._closing_unused.cancel()
        await asyncio.gather(self.vector.shared.close(), *([self.agents.stop()] if self.agents is not None else []))

    async def _close_unused(self) -> None:
        while True:
            await asyncio.sleep(min(2.0, self.sessions.limits.unused_seconds))
            await self.vector.shared.close_unused()

    def _agent_face(self) -> AgentFace | None:
        if self.settings.env.id != "snake":
            return None
        snake = validated(SnakeSettings, self.settings.env.own_settings, "snake")
        settings = self.settings
        token_file = settings.security.token_file
        return AgentFace(settings.env_service, snake, settings.seed, settings.sync, token_file)

    def _cold_routes(self) -> FastAPI:
        app = FastAPI(title=TITLE, version=__version__, docs_url=None, redoc_url=None)
        app.router.redirect_slashes = False  # a path has one name
        app.openapi = self._describe_routes  # type: ignore[method-assign]
        app.router.routes.extend([*watch_routes(), *docs_routes(TITLE)])
        if self.agents is not None:
            app.router.routes.extend(agent_routes(self.agents))
        else:
            app.router.routes.extend(agent_routes(NoAgentApi())[1:])
            app.get("/")(self._health)

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
            described = self.describe()
            body = encoding.pack_checked(described) if spoken is encoding.msgpack else spoken.encode(described)
            return Response(body, media_type=spoken.media_type)

        @app.get("/healthz", tags=["operation"])
        async def healthz() -> dict[str, str]:
            return {"status": "ok"}

        @app.get("/readyz", tags=["operation"])
        async def readyz() -> Response:
            if self.state != "ready":
                doing = "starting" if self.state == "starting" else "stopping"
                return _problem(RequestError(self.state, f"the service is {doing}"))
            return Response(b'{"status":"ready"}', media_type=encoding.JSON)

        @app.get("/metrics", tags=["operation"])
        async def metrics(request: Request) -> Response:
            media_type, numbers = exposition(self.metrics.registry, request.scope)
            return Response(numbers, media_type=media_type)

        return app

    def _describe_routes(self) -> dict[str, Any]:
        agents = self.agents is not None
        in_lockstep = agents and self.settings.sync.mode == "lockstep"
        worlds, actions = self.sessions.limits.worlds, self.sessions.spec.action_space
        return describe_routes(TITLE, __version__, worlds, actions, has_agents=agents, has_history=in_lockstep)

    async def _health(self) -> dict[str, Any]:
        """Answer for an environment without an agent API as one with it does."""
        nobody = {"game_over": True, "agents": 0, "capacity": 0, "tick": 0}
        known = {"service": SERVICE, "environment": self.settings.env.id, "version": __version__}
        return {**known, **nobody, "clock": self.settings.env_service.clock}

    def describe(self) -> dict[str, Any]:
        """Return what GET /v1/spec answers."""
        limits = self.sessions.limits
        return {
            "protocol": protocol_of(self.sessions.spec),
            "service": SERVICE,
            "version": __version__,
            **describe(self.sessions.spec),
            "features": _features(self.sessions.spec),
            "limits": {
                "sessions": limits.sessions,
                "worlds": limits.worlds,
                "body_bytes": self.settings.env_service.max_body_bytes,
                "session_seconds": limits.unused_seconds,
            },
        }


def _features(spec: EnvironmentSpec) -> list[str]:
    """Return the optional parts of the API that there are for an environment."""
    own = ["state"] if spec.batch is None else []
    return ["websocket", *own, "snapshot", "step_snapshots", "options", "owners", "crc32c"]


def _problem(error: RequestError) -> Response:
    headers = {"Allow": error.more["allow"]} if "allow" in error.more else None
    return Response(problem_body(error), error.status, headers, PROBLEM_TYPE)
