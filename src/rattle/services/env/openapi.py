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
#: What objects and their fields mean: `Object.field` where a field of this name means something else elsewhere.
_MEANINGS = {
    "BatchMessage": "Worlds that foreign code steps in one call.",
    "Beginning": "What every slot sees first.",
    "Ended": "The slots whose episode ended in a step.",
    "GameRequest": "How the next game begins.",
    "GameStarted": "The game that has begun.",
    "Health": "The server, and how many snakes play.",
    "History": "Hashes of everything that happened in lockstep.",
    "Line": "One tick of a snake, as one line of the stream.",
    "MoveRequest": "The next move of a snake.",
    "Moved": "Whether the snake lives.",
    "NoFields": "An empty object.",
    "Problem": "Why a request was refused.",
    "ResetRequest": "Where the next episodes begin.",
    "ServerLimits": "What the server allows.",
    "ServerSpec": "The server and its environment.",
    "SessionCreated": "The new session, its environment, and what every slot sees first.",
    "SessionInfo": "The state of a session.",
    "SessionRequest": "The session to make.",
    "Snapshot": "One world in plain values.",
    "State": "The whole world of the agent API.",
    "StepAnswer": "The result of a step, with one entry for each slot.",
    "StepRequest": "The actions of one tick.",
    "action": "one action for each slot",
    "action_space": "the space of actions, if they are not the numbers below `num_actions`",
    "active": "for each slot: whether its agent is alive and acts now",
    "agents": "number of living snakes",
    "agents_per_world": "number of agents in each world",
    "agents_wait": "whether agents wait for their turn",
    "any_width": "whether a world plays the same games in a session of any size",
    "batch": "present if foreign code steps all worlds of a session in one call",
    "body_bytes": "largest body of a request, in bytes",
    "capacity": "number of snakes for which there is room",
    "clock": "what makes the world tick: `realtime`, `turns`, `sync` or `lockstep`",
    "code": "what is wrong, for programs",
    "datetime": "time of the tick, in UTC",
    "detail": "what is wrong, in one sentence",
    "ended": "the slots whose episode ended",
    "environment": "name of the environment",
    "episode": "for each world: the number of its present episode",
    "State.episode": "number of the present game",
    "error": "the same as `detail`",
    "expected": "the step number that comes next, if the one in the request was wrong",
    "expires_seconds": "seconds without a request after which the session ends",
    "features": "optional parts of the API that the server has",
    "field": "the field of the request that is wrong",
    "first_world": "number of the first world among the worlds of the seed",
    "game_over": "whether the snake is dead",
    "GameStarted.game_over": "always false",
    "Health.game_over": "whether no game is in progress",
    "global_game_over": "whether no game is in progress",
    "grid": "the cells that are not empty: `x,y` to a list of what is there",
    "height": "height of the world, in cells",
    "length": "length of the snake, in cells",
    "life": "which life of the owner asks; needs `owner`. A new life ends the sessions of the one before",
    "limits": "what the server allows",
    "metrics": "names of the numbers that describe a finished episode",
    "Ended.metrics": "by name: one number for each entry of `slots`",
    "SessionInfo.metrics": "by name: one number for each slot, so far",
    "move": "the move, relative to the snake's heading",
    "num_actions": "number of discrete actions",
    "observation": "for each slot: what it sees now",
    "Ended.observation": "for each entry of `slots`: what it saw last",
    "observation_space": "the space of observations",
    "options": "settings of the environment for this session only",
    "owner": "who owns the session; needs `life`",
    "protocol": "version of the protocol that clients need",
    "reward": "reward of the tick",
    "StepAnswer.reward": "for each slot: the reward of the tick",
    "seed": "seed of the worlds",
    "GameRequest.seed": "seed of the next game; left out: the server draws one",
    "GameStarted.seed": "seed of the game",
    "ResetRequest.seed": "begin episode 0 of this seed; null: every world begins its next episode",
    "SessionRequest.seed": "seed of the worlds; null: the server draws one",
    "State.seed": "seed of the game",
    "service": "name of the software",
    "session": "identifier of the session",
    "session_seconds": "seconds without a request after which a session ends",
    "sessions": "sessions at the same time",
    "settings": "settings of the environment",
    "slots": "numbers of the slots that ended, rising",
    "snake_id": "name of the snake",
    "snakes": "for each snake by name: hash of all its lines",
    "snapshot": "the world, in a form of its environment",
    "snapshots": "the worlds that were asked for, in the same order",
    "StepRequest.snapshots": "numbers of worlds to describe in the answer",
    "status": "the HTTP status",
    "State.status": "for each snake of this game by name: length, score, heading, head and last reward",
    "step": "number of the step",
    "ResetRequest.step": "number of this step: one more than that of the last one",
    "StepRequest.step": "number of this step: one more than that of the last one",
    "stepped_by": "name of the code that steps the worlds",
    "terminated": "for each slot: whether its episode ended by the rules",
    "tick": "number of the last tick",
    "title": "name of the HTTP status",
    "truncated": "for each slot: whether its episode was cut off, for example by a time limit",
    "type": "always `about:blank`",
    "version": "version of the software",
    "visible_cells": "what the snake sees: `x,y` in its window to the content of the cell",
    "vision_radius": "how far a snake sees, in cells",
    "visions": "for each living snake by name: its `visible_cells`",
    "width": "width of the world, in cells",
    "world": "number of the world in the session",
    "History.world": "hash of all that could be seen of the world",
    "worlds": "number of worlds",
    "ServerLimits.worlds": "worlds of one session",
}
_SNAKE_ID = {
    "name": "snake_id",
    "description": "name of the snake",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}
_SESSION = {
    "name": "session",
    "description": "identifier of the session",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
}
_WORLD = {
    "name": "world",
    "description": "number of the world in the session",
    "in": "path",
    "required": True,
    "schema": {"type": "integer", "minimum": 0},
}
_LINES = {
    "name": "lines",
    "description": "`all`: leave no line out, even if the reader is slow",
    "in": "query",
    "required": False,
    "schema": {"enum": ["all"]},
}


def describe(
    title: str, version: str, max_worlds: int, actions: ActionSpace, *, has_agents: bool, has_history: bool
) -> Schema:
    """Return the whole description of a server that allows so many worlds in a session, and takes such actions.

    `has_agents` says whether its environment has an agent API, and `has_history` whether it is in lockstep.
    """
    schemas = _schemas(actions)
    schemas["SessionRequest"]["properties"]["worlds"]["maximum"] = max_worlds
    schemas["StepRequest"]["properties"]["action"] |= _rows(actions)
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
    follow = _operation(
        "agent", "Let a snake join, and read its states as a stream, one line a tick", 200, _NDJSON, "Line"
    )
    follow["parameters"] = [_LINES]
    return {
        "/": {"get": _operation("agent", "Show the server's health and the number of snakes", 200, JSON, "Health")},
        "/state": {"get": _operation("agent", "Show the whole world", 200, JSON, "State")},
        "/reset": {
            "post": _operation("agent", "End the game and begin the next one", 200, JSON, "GameStarted", "GameRequest")
        },
        "/snake/{snake_id}": {"parameters": [_SNAKE_ID], "get": follow},
        "/snake/{snake_id}/move": {
            "parameters": [_SNAKE_ID],
            "post": _operation("agent", "Choose a snake's next move", 200, JSON, "Moved", "MoveRequest"),
        },
        "/snake/{snake_id}/reset": {
            "parameters": [_SNAKE_ID],
            "post": _operation("agent", "End a snake's life and give it a new one", 200, JSON, "Moved", "NoFields"),
        },
        "/v1/history": {
            "get": _operation("agent", "Show hashes of everything that happened in lockstep", 200, JSON, "History")
        },
    }


def _vector_paths() -> Schema:
    session = "/v1/sessions/{session}"

    def of(**operations: Schema) -> Schema:
        return {"parameters": [_SESSION], **operations}

    restore = _operation("vector", "Continue from a saved state", 200, JSON, "Beginning")
    restore["requestBody"] = {"required": True, "content": {MSGPACK: {}}}
    gone = {
        "tags": ["vector"],
        "summary": "End a session",
        "responses": {"204": {"description": "Done"}, **_problems()},
    }
    return {
        "/v1/spec": {"get": _operation("vector", "Show the server and its environment", 200, JSON, "ServerSpec")},
        "/v1/sessions": {"post": _operation("vector", "Make a session", 201, JSON, "SessionCreated", "SessionRequest")},
        session: of(get=_operation("vector", "Show the state of a session", 200, JSON, "SessionInfo"), delete=gone),
        f"{session}/reset": of(post=_operation("vector", "Start new episodes", 200, JSON, "Beginning", "ResetRequest")),
        f"{session}/step": of(
            post=_operation("vector", "Step all worlds by one tick", 200, JSON, "StepAnswer", "StepRequest")
        ),
        f"{session}/state": of(
            get=_operation("vector", "Return the state of a session, to continue from it later", 200, MSGPACK),
            post=restore,
        ),
        f"{session}/worlds/{{world}}": {
            "parameters": [_SESSION, _WORLD],
            "get": _operation("vector", "Show one world in plain values", 200, JSON, "Snapshot"),
        },
    }


def _operation_paths() -> Schema:
    return {
        "/healthz": {"get": _operation("operation", "Say whether the process is alive", 200, JSON)},
        "/readyz": {"get": _operation("operation", "Say whether the service is ready for requests", 200, JSON)},
        "/metrics": {"get": _operation("operation", "Show metrics for Prometheus", 200, "text/plain")},
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
    return {"4XX": _problem("The request is wrong"), "503": _problem("The service is full, starting or stopping")}


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
    schemas |= _plain_schemas(actions)
    for name, schema in schemas.items():
        schema["description"] = _MEANINGS[name]
        for field, one in schema["properties"].items():
            meaning = _MEANINGS.get(f"{name}.{field}") or _MEANINGS[field]
            schema["properties"][field] = {**one, "description": meaning}
    return schemas


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
    flags = {"reward": _list(number), "terminated": _list(yes), "truncated": _list(yes), "ended": _reference("Ended")}
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
        "Ended": _object({"slots": _list(whole), "observation": rows, "metrics": metrics}),
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
