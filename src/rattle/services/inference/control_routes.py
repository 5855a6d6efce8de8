"""The control of what plays over REST: actors are listed, added, paused and removed. Plain ASGI."""

from __future__ import annotations

import asyncio
from typing import Any

from rattle.services.inference.actor_pool import ActorPoolApi
from rattle.services.inference.actors import ActorStatus
from rattle.services.inference.assignment import ActorRequest
from rattle.services.utils.asgi import (
    ClientGone,
    Headers,
    Receive,
    Scope,
    Send,
    answer,
    answer_problem,
    as_get,
    header,
    read_body,
)
from rattle.wire import encoding
from rattle.wire.problems import RequestError

PATH = "/v1/agents"
HISTORY_PATH = "/v1/history"
#: The largest body that asks for an actor.
_BODY_BYTES = 2**12


class ControlRoutes:
    """/v1/agents (GET, POST), /v1/agents/NAME (GET, DELETE), its /pause and /resume (POST), and /v1/history (GET)."""

    def __init__(self, players: ActorPoolApi) -> None:
        self._players = players

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        scope = as_get(scope)
        try:
            body = await read_body(scope, receive, _BODY_BYTES)
            if scope["path"] == HISTORY_PATH:
                await self._say_history(scope["method"], send)
                return
            match scope["path"].removeprefix(PATH).split("/"), scope["method"]:
                case [""], "GET":
                    listed = [describe(playing) for playing in self._players.agents()]
                    await _say(send, 200, {"agents": listed})
                case [""], "POST":
                    await self._add(_decode(scope, body), send)
                case ["", name], "GET":
                    await _say(send, 200, describe(self._players.find(name)))
                case ["", name], "DELETE":
                    await asyncio.to_thread(self._players.remove, name)  # which waits for it
                    await answer(send, 204, encoding.JSON, b"")
                case ["", name, "pause" | "resume" as what], "POST":
                    (self._players.pause if what == "pause" else self._players.resume)(name)
                    await _say(send, 200, describe(self._players.find(name)))
                case path, _:
                    raise _not_found(scope, path)
        except RequestError as error:
            await answer_problem(send, error)
        except ClientGone:
            return

    async def _say_history(self, method: str, send: Send) -> None:
        if method not in ("GET", "HEAD"):
            raise RequestError("wrong_method", f"{HISTORY_PATH} takes GET, not {method[:20]}", allow="GET")
        history = self._players.history()
        hashes = {name: snake.hex() for name, snake in history.snakes.items()}
        await _say(send, 200, {"tick": history.tick, "snakes": hashes})

    async def _add(self, wanted: ActorRequest, send: Send) -> None:
        playing = await asyncio.to_thread(self._players.add_another, wanted)  # which may load an environment
        place = f"{PATH}/{playing.assignment.name}"
        await _say(send, 201, describe(playing), [(b"location", place.encode())])


def describe(playing: ActorStatus) -> dict[str, Any]:
    """Return an actor as the routes show it."""
    assignment, report = playing.assignment, playing.report
    vector = {"first_world": assignment.first_world, "worlds": assignment.worlds}
    return {
        "name": assignment.name,
        "kind": assignment.kind,
        "policy_id": assignment.policy_id,
        "env_url": assignment.env_url,
        **(vector if assignment.kind == "vector" else {"snake": assignment.first_world}),
        "state": report.state,
        "reason": report.reason,
        "policy_version": report.policy_version,
        "rollouts": report.rollouts,
        "env_steps": report.env_steps,
        "receipts": {verdict.lower(): number for verdict, number in playing.verdicts.items()},
        "last_error": playing.last_error,
    }


async def _say(send: Send, status: int, content: dict[str, Any], headers: Headers = ()) -> None:
    await answer(send, status, encoding.JSON, encoding.json.encode(content), headers)


def _decode(scope: Scope, body: bytes) -> ActorRequest:
    if encoding.of_request(header(scope, b"content-type"), has_body=bool(body)) is not encoding.json:
        raise RequestError(
            "unsupported_type", f"Content-Type must be {encoding.JSON}, got {encoding.MSGPACK}", "Content-Type"
        )
    return encoding.json.decode(body or b"{}", ActorRequest)


def _not_found(scope: Scope, path: list[str]) -> RequestError:
    allow = {1: "GET, POST", 2: "GET, DELETE"}.get(len(path))
    if len(path) == 3 and path[2] in ("pause", "resume"):
        allow = "POST"
    if allow is None or path[0]:
        return RequestError("unknown_path", f"there is no {scope['path'][:80]}: {PATH} lists the actors")
    return RequestError("wrong_method", f"{scope['path'][:80]} takes {allow}, not {scope['method']}", allow=allow)
