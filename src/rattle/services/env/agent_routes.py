"""The agent API over HTTP: decodes requests, calls the game, encodes its answers. Plain ASGI."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from socket import SOCK_DGRAM
from typing import Any, TypeVar
from urllib.parse import parse_qs

import msgspec
from starlette.routing import Route
from starlette.types import ASGIApp

from rattle.clients.keys import sync_key
from rattle.envs.snake.settings import SnakeSettings
from rattle.services.env.clocks import RealtimeClock, SyncClock, TickClock, TurnsClock
from rattle.services.env.game import Game
from rattle.services.env.lives import Moment, check_snake_id
from rattle.services.env.lockstep_clock import LockstepClock
from rattle.services.env.lockstep_game import LockstepGame
from rattle.services.env.streams import STREAM_HEAD, Stream, Streams
from rattle.services.utils.asgi import (
    ClientGone,
    Receive,
    Scope,
    Send,
    answer,
    answer_problem,
    as_get,
    header,
    read_body,
)
from rattle.services.utils.serving import end_service, freeze_gc
from rattle.services.utils.sockets import listen
from rattle.settings.services import EnvServiceSection, SyncSection
from rattle.wire import encoding
from rattle.wire.problems import RequestError

Body = TypeVar("Body")

#: How long streams may take to write their last line when the service stops, in seconds.
GOODBYE_SECONDS = 2.0
#: The largest body: a move or a seed takes some twenty bytes.
_BODY_BYTES = 2**12

_METHODS = {
    "": "GET",
    "state": "GET",
    "reset": "POST",
    "snake": "GET",
    "move": "POST",
    "snake_reset": "POST",
    "history": "GET",
}


class MoveRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /snake/{id}/move; the game says which moves there are."""

    move: Any


class GameResetRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /reset."""

    seed: Any = msgspec.UNSET


class NoFields(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /snake/{id}/reset."""


class AgentFace:
    """The agent API of one snake world: an ASGI application of its paths, with its game, clock and streams."""

    def __init__(
        self,
        settings: EnvServiceSection,
        snake: SnakeSettings,
        seed: int,
        sync: SyncSection | None = None,
        token_file: str | None = None,
    ) -> None:
        """Prepare; `sync` and `token_file` say who leads it. Raises RattleError for settings that lead nowhere."""
        self.settings = settings
        self.streams = Streams()
        self.game: Game
        self.clock: TickClock
        capacity = snake.num_snakes if settings.snakes is None else settings.snakes
        sync = sync or SyncSection()
        if sync.mode == "lockstep":
            # There is no time in lockstep: a snake stays for as many ticks as it would at `fps`.
            game = LockstepGame(snake, seed, capacity, settings.leave_seconds * settings.fps)
            self.game, self.clock = game, LockstepClock(game, sync, sync_key(sync.key_file, token_file), end_service)
        else:
            self.game = Game(snake, seed, capacity, settings.clock, settings.leave_seconds)
            self.clock = _make_clock(settings, self.game, sync.key_file, token_file)

    async def start(self) -> None:
        """Let the clock run."""
        freeze_gc()
        self.clock.start(lambda: self.game.tick(_now()))

    async def stop(self) -> None:
        """Give every stream its last line, and wait until they are written."""
        await self.clock.stop()
        self.game.close(_now())
        await self.streams.end(GOODBYE_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        try:
            route, snake_id = _route_of(scope)
            if route == "snake" and scope["method"] == "HEAD":  # nobody joins
                check_snake_id(snake_id)
                _wants_all_lines(scope)
                await send(STREAM_HEAD)
                await send({"type": "http.response.body", "body": b""})
                return
            if route == "snake":
                await self._stream(snake_id, scope, receive, send)
                return
            body = await read_body(scope, receive, min(self.settings.max_body_bytes, _BODY_BYTES))
            said = self._answer(route, snake_id, body, header(scope, b"content-type"))
            await answer(send, 200, encoding.JSON, msgspec.json.encode(said))
        except RequestError as error:
            await answer_problem(send, error)
        except ClientGone:
            return

    def _answer(self, route: str, snake_id: str, body: bytes, content_type: str | None) -> dict[str, Any]:
        match route:
            case "":
                return self.game.health()
            case "state":
                self.game.expire(_now())
                return self.game.state()
            case "history":
                return self._history()
            case "move":
                said = self.game.move(snake_id, _decode(body, content_type, MoveRequest).move)
            case "snake_reset":
                _decode(body or b"{}", content_type, NoFields)
                said = self.game.reset_snake(snake_id, _now())
                self._expire_later()
            case _:
                said = self.game.reset(_now(), _decode(body or b"{}", content_type, GameResetRequest).seed)
        self.clock.changed()
        return said

    def _history(self) -> dict[str, Any]:
        """Return what `GET /v1/history` says; raises RequestError (no_history)."""
        if not isinstance(self.clock, LockstepClock):
            detail = "a history is kept in lockstep only: start this server with --set sync.mode=lockstep"
            raise RequestError("no_history", detail)
        return self.clock.history()

    async def _stream(self, snake_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        stream = Stream(self.streams, send, _wants_all_lines(scope))
        life = self.game.follow(snake_id, stream, _now())
        self.clock.changed()
        try:
            await stream.serve(receive)
        finally:
            self.game.unfollow(life, stream, _now())
            self._expire_later()
            self.clock.changed()

    def _expire_later(self) -> None:
        """Look for snakes to take off the board when those that nobody reads now have waited long enough."""
        asyncio.get_running_loop().call_later(self.settings.leave_seconds + 0.01, self._expire)

    def _expire(self) -> None:
        self.game.expire(_now())
        self.clock.changed()


class NoAgentApi:
    """Answers for a server whose environment has no agent API (ASGI)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say so."""
        detail = "this server's environment has no agent API: only env.id=snake has one, see GET /v1/spec"
        await answer_problem(send, RequestError("no_agent_api", detail))


def agent_routes(app: ASGIApp) -> list[Route]:
    """Return the routes of the agent API, answered by an `AgentFace` or by `NoAgentApi`."""
    paths = (
        "/",
        "/state",
        "/reset",
        "/v1/history",
        "/snake/{snake_id}",
        "/snake/{snake_id}/move",
        "/snake/{snake_id}/reset",
    )
    return [Route(path, app, include_in_schema=False) for path in paths]


def _make_clock(settings: EnvServiceSection, game: Game, key_file: str | None, token_file: str | None) -> TickClock:
    if settings.clock == "realtime":
        return RealtimeClock(game, settings.fps)
    if settings.clock == "turns":
        return TurnsClock(game, settings.turn_seconds)
    key = sync_key(key_file, token_file)
    return SyncClock(listen(settings.host, settings.sync_port, SOCK_DGRAM), key)


def _route_of(scope: Scope) -> tuple[str, str]:
    """Return the name of the route and the snake in its path; raises RequestError."""
    path, method = scope["path"], as_get(scope)["method"]
    match path.split("/")[1:]:
        case ["" | "state" | "reset" as route]:
            snake_id = ""
        case ["snake", snake_id]:
            route = "snake"
        case ["v1", "history"]:
            route, snake_id = "history", ""
        case ["snake", snake_id, "move" | "reset" as action]:
            route = "move" if action == "move" else "snake_reset"
        case _:
            raise RequestError("unknown_path", f"there is no {path}: docs/env-api.md lists the routes")
    if method != _METHODS[route]:
        raise RequestError("wrong_method", f"{path} takes {_METHODS[route]}, not {method}", allow=_METHODS[route])
    return route, snake_id


def _wants_all_lines(scope: Scope) -> bool:
    if not scope["query_string"]:
        return False
    values = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("lines")
    if values not in (None, ["all"]):
        raise RequestError("bad_value", "lines must be all, or be left out for the newest only", "lines")
    return values is not None


def _decode(body: bytes, content_type: str | None, message: type[Body]) -> Body:
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type != encoding.JSON:
        raise RequestError(
            "unsupported_type", f"Content-Type must be {encoding.JSON}, got {content_type!r}", "Content-Type"
        )
    return encoding.json.decode(body, message)


def _now() -> Moment:
    return Moment(time.monotonic(), datetime.now(UTC))
