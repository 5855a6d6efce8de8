"""The OpenAPI description of the Env service; docs/env-api.md says what it all means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rattle.samples.spaces import ActionSpace
from rattle.services.env.agent_routes import GameResetRequest as GameRequest
from rattle.services.env.agent_routes import MoveRequest, NoFields
from rattle.wire import vector
from rattle.wire.encoding import JSON, MSGPACK
from rattle.wire.problems import PROBLEM_TYPE, STATUS

Schema = dict[str, Any]

_NDJSON = "application/x-ndjson"
_REQUESTS = (
    vector.SessionRequest,
    vector.ResetRequest,
    vector.StepRequest[msgspec.Raw],
    MoveRequest,
    NoFields,
    GameRequest,
)
_ANSWERS = (vector.ServerSpec,)
_SEED: Schema = {"type": ["integer", "null"], "minimum": 0, "maximum": 2**64 - 1, "default": None}
#: What the messages leave to the use cases.
_CLOSER: dict[str, Schema] = {
    "SessionRequest": {"seed": _SEED},
    "ResetRequest": {"seed": _SEED},
    "MoveRequest": {"move": {"enum": ["left", "right", "forward"]}},
    "GameRequest": {"seed": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}},
}
#: What the page offers to try: it would else offer the largest numbers, which its language cannot hold.
_EXAMPLES: dict[str, Schema] = {
    "SessionRequest": {"worlds": 1, "seed": 0},
    "ResetRequest": {"step": 1, "seed": 0},
    "StepRequest": {"step": 1},
    "MoveRequest": {"move": "forward"},
    "NoFields": {},
    "GameRequest": {"seed": 0},
}
_SNAKE_ID = {
    "name": "snake_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}
_SESSION = {
    "name": "session",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
}
_WORLD = {"name": "world", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
_LINES = {"name": "lines", "in": "query", "required": False, "schema": {"enum": ["all"]}}


def describe(
    title: str, version: str, max_worlds: int, actions: ActionSpace, *, has_agents: bool, has_history: bool
) -> Schema:
    """Return the whole description of a server that allows so many worlds in a session, and takes such actions.

    `has_agents` says whether its environment has an agent API, and `has_history` whether it is in lockstep.
    """
    schemas = _schemas(actions)
    schemas["SessionRequest"]["properties"]["worlds"]["maximum"] = max_worlds
    schemas["StepRequest"]["properties"]["action"] = _rows(actions)
    agent_paths = _agent_paths()
    if not has_history:
        del agent_paths["/v1/history"]
    paths = (agent_paths if has_agents else {"/": agent_paths["/"]}) | _vector_paths() | _operation_paths()
    step = paths["/v1/sessions/{session}/step"]["post"]["requestBody"]["content"][JSON]
    step["example"] = {"step": 1, "action": actions.zeros(1).tolist()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": version,
            "description": "Worlds over REST: one agent in JSON, thousands of worlds in one request.",
        },
        "paths": paths,
        "components": {
            "schemas": _needed(paths, schemas),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],  # services without a token ask for none
    }


def _agent_paths() -> Schema:
    follow = _operation("agent", "A snake joins and its states stream, one line a tick", 200, _NDJSON, "Line")
    follow["parameters"] = [_LINES]
    return {
        "/": {"get": _operation("agent", "Health and who is there", 200, JSON, "Health")},
        "/state": {"get": _operation("agent", "The whole world", 200, JSON, "State")},
        "/reset": {
            "post": _operation("agent", "End the game; the next begins", 200, JSON, "GameStarted", "GameRequest")
        },
        "/snake/{snake_id}": {"parameters": [_SNAKE_ID], "get": follow},
        "/snake/{snake_id}/move": {
            "parameters": [_SNAKE_ID],
            "post": _operation("agent", "Move in the next tick", 200, JSON, "Moved", "MoveRequest"),
        },
        "/snake/{snake_id}/reset": {
            "parameters": [_SNAKE_ID],
            "post": _operation("agent", "A new life for a snake", 200, JSON, "Moved", "NoFields"),
        },
        "/v1/history": {"get": _operation("agent", "Hashes of what has happened in lockstep", 200, JSON, "History")},
    }


def _vector_paths() -> Schema:
    session = "/v1/sessions/{session}"

    def of(**operations: Schema) -> Schema:
        return {"parameters": [_SESSION], **operations}

    restore = _operation("vector", "Go on where a state was taken", 200, JSON, "Beginning")
    restore["requestBody"] = {"required": True, "content": {MSGPACK: {}}}
    gone = {
        "tags": ["vector"],
        "summary": "End a session",
        "responses": {"204": {"description": "Done"}, **_problems()},
    }
    return {
        "/v1/spec": {"get": _operation("vector", "What this server is", 200, JSON, "ServerSpec")},
        "/v1/sessions": {"post": _operation("vector", "Make a session", 201, JSON, "SessionCreated", "SessionRequest")},
        session: of(get=_operation("vector", "Where a session stands", 200, JSON, "SessionInfo"), delete=gone),
        f"{session}/reset": of(
            post=_operation("vector", "Start episodes anew", 200, JSON, "Beginning", "ResetRequest")
        ),
        f"{session}/step": of(post=_operation("vector", "One tick", 200, JSON, "StepAnswer", "StepRequest")),
        f"{session}/state": of(get=_operation("vector", "All that decides what follows", 200, MSGPACK), post=restore),
        f"{session}/worlds/{{world}}": {
            "parameters": [_SESSION, _WORLD],
            "get": _operation("vector", "One world in plain values", 200, JSON, "Snapshot"),
        },
    }


def _operation_paths() -> Schema:
    return {
        "/healthz": {"get": _operation("operation", "The process lives", 200, JSON)},
        "/readyz": {"get": _operation("operation", "Requests are welcome", 200, JSON)},
        "/metrics": {"get": _operation("operation", "Numbers for Prometheus", 200, "text/plain")},
    }


def _operation(
    tag: str,
    summary: str,
    status: int,
    media_type: str,
    answer: str | None = None,
    request: str | None = None,
) -> Schema:
    schema = {"schema": _reference(answer)} if answer else {}
    content = {media_type: schema}
    if tag == "vector" and media_type == JSON:
        content[MSGPACK] = {}
    operation: Schema = {
        "tags": [tag],
        "summary": summary,
        "responses": {str(status): {"description": summary, "content": content}, **_problems()},
    }
    if request:
        body: Schema = {JSON: {"schema": _reference(request), "example": _EXAMPLES[request]}}
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _problems() -> Schema:
    return {"4XX": _problem("The request is at fault"), "503": _problem("No room, or the service stops")}


def _problem(description: str) -> Schema:
    return {"description": description, "content": {PROBLEM_TYPE: {"schema": _reference("Problem")}}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _needed(paths: Schema, schemas: Schema) -> Schema:
    """Return the schemas that are referred to, by others of them too."""
    needed: Schema = {}
    parts: list[Any] = [paths]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name and name not in needed:
                needed[name] = schemas[name]
                parts.append(schemas[name])
            parts += part.values()
        elif isinstance(part, list):
            parts += part
    return {name: schemas[name] for name in schemas if name in needed}


def _schemas(actions: ActionSpace) -> Schema:
    types = {_name(message): message for message in (*_REQUESTS, *_ANSWERS)}
    found, components = msgspec.json.schema_components(types.values(), ref_template="#/components/schemas/{name}")
    schemas: Schema = {**components}
    for name, reference in zip(types, found, strict=True):
        generated = reference["$ref"].rpartition("/")[2]
        schemas[name] = schemas.pop(generated)
        schemas[name]["properties"].pop("crc32c", None)  # JSON has none
        for field, closer in _CLOSER.get(name, {}).items():
            schemas[name]["properties"][field] = closer
    return schemas | _plain_schemas(actions)


def _name(message: Any) -> str:
    return "GameRequest" if message is GameRequest else str(getattr(message, "__origin__", message).__name__)


def _plain_schemas(actions: ActionSpace) -> Schema:
    """Return the answers that no message type describes: arrays are nested lists in JSON."""
    text: Schema = {"type": "string"}
    yes: Schema = {"type": "boolean"}
    whole: Schema = {"type": "integer", "minimum": 0}
    number: Schema = {"type": "number"}
    rows = _list(_list(number))
    window: Schema = {"type": "object", "additionalProperties": text}
    beginning = {"step": whole, "observation": rows, "active": _list(yes), "episode": _list(whole)}
    metrics: Schema = {"type": "object", "additionalProperties": _list({"type": "integer"})}
    ended = _object({"slots": _list(whole), "observation": rows, "metrics": metrics})
    flags = {"reward": _list(number), "terminated": _list(yes), "truncated": _list(yes), "ended": ended}
    environment: Schema = {
        "environment": text,
        "settings": {"type": "object"},
        "observation_space": {"type": "object"},
        **{name: whole if name == "num_actions" else {"type": "object"} for name in actions.describe()},
        "agents_per_world": whole,
        "metrics": _list(text),
    }
    own = {"session": text, "seed": whole, "first_world": whole}
    health = {"service": text, "environment": text, "version": text, "clock": text, "game_over": yes}
    line = {"snake_id": text, "tick": whole, "visible_cells": window, "reward": number, "game_over": yes}
    game = {"status": {"type": "object"}, "global_game_over": yes, "tick": whole, "episode": whole, "seed": whole}
    code = {"enum": sorted(STATUS)}
    hashed: Schema = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
    hashes: Schema = {"type": "object", "additionalProperties": hashed}
    sizes = {"width": whole, "height": whole, "vision_radius": whole}
    problem = {"type": text, "title": text, "status": whole, "detail": text, "error": text, "code": code}
    windows: Schema = {"type": "object", "additionalProperties": window}
    return {
        "Health": _object({**health, "agents": whole, "capacity": whole, "tick": whole}),
        "State": _object({"grid": {"type": "object"}, "visions": windows, "clock": text, **sizes, **game}),
        "GameStarted": _object({"game_over": yes, "seed": whole}),
        "Line": _object({**line, "datetime": {"type": "string", "format": "date-time"}, "length": whole}),
        "History": _object({"tick": whole, "world": hashed, "snakes": hashes}),
        "Moved": _object({"snake_id": text, "game_over": yes}),
        "Beginning": _object(beginning),
        "StepAnswer": _object({**beginning, **flags}, snapshots=_list({"type": "object"})),
        "SessionCreated": _object({**own, **beginning, **environment, "expires_seconds": number}),
        "SessionInfo": _object({**own, "step": whole, "worlds": whole, "metrics": metrics}),
        "Snapshot": _object({"step": whole, "world": whole, "snapshot": {"type": "object"}}),
        "Problem": _object(problem, field=text, expected=whole),
    }


def _rows(actions: ActionSpace) -> Schema:
    """Return the schema of actions, one a slot."""
    rows: Schema = {"type": "integer" if actions.dtype.kind == "i" else "number"}
    for _ in range(1 + len(actions.shape)):
        rows = _list(rows)
    return rows


def _object(properties: Mapping[str, Schema], **optional: Schema) -> Schema:
    return {"type": "object", "properties": {**properties, **optional}, "required": list(properties)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}
