"""Broken vector servers: for each check, what a server does for which the check must fail."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from tests.conformance.broken_env import JSON, MSGPACK, PROBLEM, Body, Exchange, Fault, edited, read

Edit = Callable[[Body], object]
STEPS = ("session/step", "session/reset")


def reply(route: str, edit: Edit, status: int = 200, method: str = "") -> Fault:
    """Change the objects that a route answers with a status."""

    def answer(exchange: Exchange, state: Body) -> None:
        del state
        if exchange.route == route and exchange.status == status and method in ("", exchange.method):
            body = exchange.reply
            edit(body)
            exchange.reply = body

    return Fault(answer=answer)


def asked(route: str, edit: Edit, method: str = "POST") -> Fault:
    """Change the objects that a route is asked with."""

    def request(exchange: Exchange, state: Body) -> None:
        del state
        body = exchange.body
        if exchange.route == route and exchange.method == method and isinstance(body, dict):
            edit(body)
            exchange.body = body

    return Fault(request=request)


def headers(edit: Edit) -> Fault:
    """Change the headers of requests."""
    return Fault(request=lambda exchange, state: edit(exchange.headers) and None)


def status(route: str, old: int, new: int, method: str = "") -> Fault:
    """Answer with another status."""

    def answer(exchange: Exchange, state: Body) -> None:
        del state
        if exchange.route == route and exchange.status == old and method in ("", exchange.method):
            exchange.status = new

    return Fault(answer=answer)


def code(old: str, new: str, route: str | None = None) -> Fault:
    """Refuse with another code."""

    def answer(exchange: Exchange, state: Body) -> None:
        del state
        if exchange.answer_type == PROBLEM and route in (None, exchange.route):
            exchange.answer = exchange.answer.replace(f'"code":"{old}"'.encode(), f'"code":"{new}"'.encode())

    return Fault(answer=answer)


def array(name: str, change: Callable[[Any], Any], route: str = "session/step") -> Fault:
    """Change an array of a route's answers."""
    return reply(route, lambda body: body.update({name: edited(body[name], change)}))


def only_known(body: Body, *known: str) -> None:
    for name in set(body) - set(known):
        del body[name]


def drop_bad(body: Body, name: str) -> None:
    value = body.get(name)
    if type(value) is not int or not 0 <= value < 2**63:
        body.pop(name, None)


def _same_id(exchange: Exchange, state: Body) -> None:
    if "id" in state:
        exchange.path = exchange.path.replace("the-one", state["id"])


def _say_same_id(exchange: Exchange, state: Body) -> None:
    if exchange.route == "sessions" and exchange.status == 201:
        body = exchange.reply
        state["id"] = body["session"]
        exchange.reply = {**body, "session": "the-one"}


def _swap_ended(body: Body) -> None:
    ended = body["ended"]
    ended["slots"] = edited(ended["slots"], lambda slots: slots[::-1])


def _row_without_end(body: Body) -> None:
    ended = body["ended"]
    if not len(read(ended["slots"])):
        ended["slots"] = edited(ended["slots"], lambda slots: np.zeros(1, np.int32))
        width = read(body["observation"]).shape[1]
        ended["observation"] = edited(ended["observation"], lambda rows: np.zeros((1, width), np.uint8))
        ended["metrics"] = {
            name: edited(value, lambda _: np.zeros(1, np.int32)) for name, value in ended["metrics"].items()
        }


def _both(body: Body) -> None:
    body["truncated"] = body["terminated"]


def _frozen_observation(body: Body) -> None:
    """Show the last observation where the first of the next episode belongs."""
    slots, last = read(body["ended"]["slots"]), read(body["ended"]["observation"])

    def change(rows: Any) -> Any:
        rows[slots] = last
        return rows

    body["observation"] = edited(body["observation"], change)


def _dirty_inactive(body: Body) -> None:
    active = read(body["active"])

    def change(rows: Any) -> Any:
        rows[~active] = 1
        return rows

    body["observation"] = edited(body["observation"], change)


def next_for_last(exchange: Exchange, state: Body) -> None:
    """Hand out the next episode's first observation as the last one, as who resets before copying does."""
    del state
    if exchange.route == "session/step" and exchange.status == 200:
        body = exchange.reply
        slots, rows = read(body["ended"]["slots"]), read(body["observation"])
        body["ended"]["observation"] = edited(body["ended"]["observation"], lambda last: rows[slots].astype(last.dtype))
        exchange.reply = body


def zeros_for_last(exchange: Exchange, state: Body) -> None:
    """Hand out zeros as the last observation."""
    del state
    if exchange.route == "session/step" and exchange.status == 200:
        body = exchange.reply
        body["ended"]["observation"] = edited(body["ended"]["observation"], lambda last: last * 0)
        exchange.reply = body


def old_for_last(exchange: Exchange, state: Body) -> None:
    """Hand out what was seen before the step as the last observation."""
    if exchange.route == "sessions" and exchange.status == 201:
        state[exchange.reply["session"]] = read(exchange.reply["observation"])
    elif exchange.route in STEPS and exchange.status == 200:
        body, session = exchange.reply, exchange.path.split("/")[3]
        before, state[session] = state[session], read(body["observation"])
        if "ended" in body:
            slots = read(body["ended"]["slots"])
            body["ended"]["observation"] = edited(
                body["ended"]["observation"], lambda last: before[slots].astype(last.dtype)
            )
            exchange.reply = body


def _never_over(body: Body) -> None:
    """Make every life the same one."""
    if "life" in body:
        body["life"] = "1"


def _lives_return(exchange: Exchange, state: Body) -> None:
    """Take a life that is over for another later one."""
    body = exchange.body
    if exchange.route == "sessions" and isinstance(body, dict) and isinstance(body.get("life"), str):
        lives = state.setdefault(body.get("owner"), [])
        if body["life"] in lives[:-1]:
            exchange.body = {**body, "life": "again"}
        elif body["life"] not in lives:
            lives.append(body["life"])


def _room_for_no_later_life(exchange: Exchange, state: Body) -> None:
    """Count the sessions that a later life replaces as open still."""
    places = state.setdefault("open", set())
    if exchange.route == "sessions" and exchange.status == 201:
        places.add(exchange.reply["session"])
        if len(places) > 6:
            exchange.status = 503
    elif exchange.route == "session" and exchange.method == "DELETE":
        places.discard(exchange.path.split("/")[3])


def _short_names(body: Body) -> None:
    """Take names of any length."""
    for name in ("owner", "life"):
        if isinstance(body.get(name), str):
            body[name] = body[name][:256]


def _more_metrics(body: Body) -> None:
    body["metrics"] = {name: edited(value, lambda numbers: numbers + 1) for name, value in body["metrics"].items()}


def _as_next(exchange: Exchange, state: Body) -> None:
    """Ignore the step number: whatever comes is the next step."""
    if exchange.route in STEPS and isinstance(body := exchange.body, dict):
        state["asked"] = body.get("step")
        number = state.setdefault(exchange.path.rpartition("/")[0], 0)
        exchange.body = {**body, "step": number + 1}


def _as_asked(exchange: Exchange, state: Body) -> None:
    if exchange.route in STEPS and exchange.status == 200:
        state[exchange.path.rpartition("/")[0]] += 1
        exchange.reply = {**exchange.reply, "step": state["asked"]}


NUMBERLESS = Fault(request=_as_next, answer=_as_asked)


def _count_refused(exchange: Exchange, state: Body) -> None:
    if exchange.route in STEPS and exchange.status == 400:
        state["refused"] = True


def _refuse_after(exchange: Exchange, state: Body) -> None:
    """Count a refused request as if it had stepped."""
    if exchange.route == "session/step" and state.pop("refused", False):
        exchange.body = {**exchange.body, "step": exchange.body["step"] + 1}


def _pay_after(exchange: Exchange, state: Body) -> None:
    _count_refused(exchange, state)
    if exchange.route == "session/step" and exchange.status == 200 and state.pop("refused", False):
        body = exchange.reply
        exchange.reply = {**body, "reward": edited(body["reward"], lambda reward: reward + 1)}


def _step_on_cut(exchange: Exchange, state: Body) -> Exchange | None:
    """Play on with a cut request, with zeros for what is missing."""
    if exchange.route != "session/step" or b'"action"' not in exchange.content:
        return None
    number = int(exchange.content.partition(b'"step":')[2].partition(b",")[0])
    exchange.content = msgspec.json.encode({"step": number, "action": [1] * state["slots"]})
    return exchange


def _remember_slots(exchange: Exchange, state: Body) -> None:
    if exchange.route == "sessions" and exchange.status == 201:
        state["slots"] = len(read(exchange.reply["active"]))


def _every_seventh(exchange: Exchange, state: Body) -> None:
    """Let one count over all sessions decide rewards."""
    if exchange.route == "session/step" and exchange.status == 200:
        state["steps"] = state.get("steps", 0) + 1
        if state["steps"] % 7 == 0:
            body = exchange.reply
            exchange.reply = {**body, "reward": edited(body["reward"], lambda reward: reward + 1)}


def _json_reward(exchange: Exchange, state: Body) -> None:
    del state
    if exchange.route == "session/step" and exchange.answer_type == JSON:
        body = exchange.reply
        exchange.reply = {**body, "reward": edited(body["reward"], lambda reward: reward + 0.5)}


def _strict_type(exchange: Exchange, state: Body) -> None:
    del state
    if ";" in exchange.headers.get("content-type", ""):
        exchange.status, exchange.answer_type = 415, PROBLEM
        exchange.answer = b'{"code":"unsupported_type"}'


def _problem_as_msgpack(exchange: Exchange, state: Body) -> None:
    del state
    if exchange.answer_type == PROBLEM and MSGPACK in exchange.headers.values():
        exchange.answer_type, exchange.answer = MSGPACK, msgspec.msgpack.encode(exchange.reply)


def _clip(body: Body) -> None:
    if isinstance(body.get("action"), list):
        body["action"] = [min(max(value, 0), 2) if isinstance(value, int) else value for value in body["action"]]


def _fit(exchange: Exchange, state: Body) -> None:
    body = exchange.body
    if exchange.route == "session/step" and isinstance(body, dict) and isinstance(body.get("action"), list):
        action = body["action"]
        if all(type(value) is int for value in action):
            exchange.body = {**body, "action": (action + [0] * state["slots"])[: state["slots"]]}


def _to_int(body: Body) -> None:
    if isinstance(body.get("action"), list):
        body["action"] = [int(value or 0) for value in body["action"]]


def _nan_to_zero(exchange: Exchange, state: Body) -> None:
    del state
    exchange.content = exchange.content.replace(b"NaN", b"0")


def _no_bytes(exchange: Exchange, state: Body) -> None:
    del state
    body = exchange.body
    if exchange.route == "session/step" and isinstance(body["action"], dict) and body["action"]["dtype"] == "uint8":
        exchange.status, exchange.answer_type = 400, PROBLEM
        exchange.answer = b'{"code":"bad_value","field":"action"}'


def _cast(body: Body) -> None:
    action = body.get("action")
    if isinstance(action, dict) and action.get("dtype") == "float32":
        body["action"] = {**action, "dtype": "int32"}


def _noise(body: Body) -> None:
    body["reward"] = edited(body["reward"], lambda reward: reward + np.float32(random.random()))  # noqa: S311


def _other_start(body: Body) -> None:
    """Start episodes after an end otherwise than after a reset."""
    if len(read(body["ended"]["slots"])):
        body["observation"] = edited(body["observation"], lambda rows: np.roll(rows, 1, axis=1))


def _asked_for(exchange: Exchange, state: Body) -> None:
    if exchange.route == "session" and exchange.method == "GET":
        state["refused"] = True


def _pay_asked(exchange: Exchange, state: Body) -> None:
    if exchange.route == "session/step" and state.pop("refused", False):
        body = exchange.reply
        exchange.reply = {**body, "reward": edited(body["reward"], lambda reward: reward + 1)}


def _wound(exchange: Exchange, state: Body) -> None:
    state["wounded"] = True


def _limp(exchange: Exchange, state: Body) -> None:
    if state.get("wounded"):
        exchange.status, exchange.answer_type, exchange.answer = 500, "text/plain", b"broken"


def _fixed_seed(body: Body) -> None:
    body["seed"] = 1


def _no_error(exchange: Exchange, state: Body) -> None:
    del state
    if exchange.answer_type == PROBLEM:
        exchange.answer = exchange.answer.replace(b'"error"', b'"message"')


def _new_snapshot(body: Body) -> None:
    body["snapshot"] = {"bodies": [[random.random()]]}  # noqa: S311


def _socket(**directions: Callable[[Body, Body], list[Body]]) -> Fault:
    """Change WebSocket messages on their way in or out."""

    def change(direction: str, message: Body, state: Body) -> list[Body]:
        return directions[direction](message, state) if direction in directions else [message]

    return Fault(socket=change)


def _text_for_binary(message: Body, state: Body) -> list[Body]:
    if message.get("bytes"):
        value = msgspec.msgpack.decode(message["bytes"])
        return [{"type": message["type"], "text": str(value), "bytes": None}]
    return [message]


def _hang_up(message: Body, state: Body) -> list[Body]:
    if b'"code"' in (message.get("text") or "").encode():
        return [{"type": "websocket.close", "code": 1011}]
    return [message]


def _wrong_rewards(message: Body, state: Body) -> list[Body]:
    if message.get("text") and '"reward"' in message["text"]:
        body = msgspec.json.decode(message["text"])
        body["reward"] = [value + 1 for value in body["reward"]]
        return [{**message, "text": msgspec.json.encode(body).decode()}]
    return [message]


def _refuse_repeats(message: Body, state: Body) -> list[Body]:
    """Answer a repeated step on another connection with a problem."""
    if message["type"] == "websocket.receive" and message.get("text"):
        if message["text"] in state:
            return [{**message, "text": message["text"].replace('"step":1', '"step":9')}]
        state[message["text"]] = True
    return [message]


def _swap_answers(message: Body, state: Body) -> list[Body]:
    """Send the third answer before the second."""
    content = message.get("bytes")
    if content and msgspec.msgpack.decode(content).get("step") == 2:
        state["held"] = message
        return []
    return [message, state.pop("held")] if "held" in state else [message]


def _checksum_of_another(exchange: Exchange, state: Body) -> None:
    if exchange.route == "session/step" and exchange.answer_type == MSGPACK:
        exchange.answer = exchange.answer[:-1] + bytes([exchange.answer[-1] ^ 1])


def _no_checksum(message: Body, state: Body) -> list[Body]:
    """Take a message as it came, damaged or not."""
    try:
        body = msgspec.msgpack.decode(message.get("bytes") or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [message]
    body.pop("crc32c", None)
    return [{**message, "bytes": msgspec.msgpack.encode(body)}]


def _open_anyway(message: Body, state: Body) -> list[Body]:
    if message["type"] in ("websocket.close", "websocket.http.response.start"):
        state["stay open"] = True
        return [{"type": "websocket.accept"}]
    return [] if message["type"] == "websocket.http.response.body" else [message]


def _one_world(body: Body) -> None:
    if type(body.get("worlds")) is not int or body["worlds"] < 1:
        body["worlds"] = 1


def _crash_on_worlds(exchange: Exchange, state: Body) -> None:
    del state
    if exchange.route.startswith("session/worlds/") and exchange.status >= 400:
        exchange.status = 500


#: The id of each check that can fail, and a server for which it must.
FAULTS: dict[str, Fault] = {
    "vector.spec.answer": reply("spec", lambda body: body.update(protocol="vector/2")),
    "vector.spec.protocol": reply("spec", lambda body: body.update(action_space={"kind": "multi_discrete"})),
    "vector.spec.fields": reply("spec", lambda body: body.pop("num_actions")),
    "vector.spec.space": reply("spec", lambda body: body.update(observation_space={"kind": "boxes"})),
    "vector.spec.limits": reply("spec", lambda body: body["limits"].pop("worlds")),
    "vector.spec.messagepack": headers(lambda found: found.pop("accept", None)),
    "vector.sessions.create": status("sessions", 201, 200),
    "vector.sessions.spec": reply("sessions", lambda body: body.update(settings={}), 201),
    "vector.sessions.given": reply("sessions", lambda body: body.update(first_world=3), 201),
    "vector.sessions.seeds": asked("sessions", lambda body: body.setdefault("seed", 5)),
    "vector.sessions.ids": Fault(request=_same_id, answer=_say_same_id),
    "vector.sessions.expires": reply("sessions", lambda body: body.update(expires_seconds="soon"), 201),
    "vector.sessions.worlds": asked("sessions", _one_world),
    "vector.sessions.numbers": asked("sessions", lambda body: drop_bad(body, "seed")),
    "vector.sessions.unknown_field": asked(
        "sessions", lambda body: only_known(body, "worlds", "seed", "first_world", "options")
    ),
    "vector.sessions.options": asked("sessions", lambda body: body.pop("options", None)),
    "vector.sessions.body": code("bad_request", "bad_value", "sessions"),
    "vector.sessions.get": reply("session", lambda body: body.update(step=0), method="GET"),
    "vector.sessions.delete": status("session", 204, 200, "DELETE"),
    "vector.sessions.unknown": code("unknown_session", "unknown_path"),
    "vector.sessions.full": Fault(answer=lambda exchange, state: exchange.answer_headers.clear()),
    "vector.steps.fields": reply("session/step", lambda body: body.pop("reward")),
    "vector.steps.exclusive": reply("session/step", _both),
    "vector.steps.ended": reply("session/step", _swap_ended),
    "vector.steps.no_ends": reply("session/step", _row_without_end),
    "vector.steps.autoreset": array("episode", lambda episode: episode * 0),
    "vector.steps.first_observation": reply("session/step", _frozen_observation),
    "vector.steps.inactive": reply("session/step", _dirty_inactive),
    "vector.steps.last_observation": Fault(answer=old_for_last),
    "vector.steps.time_limit": Fault(answer=next_for_last),
    "vector.owners.later_life": asked("sessions", _never_over),
    "vector.owners.over": Fault(request=_lives_return),
    "vector.owners.room": Fault(answer=_room_for_no_later_life),
    "vector.owners.bad": asked("sessions", _short_names),
    "vector.steps.metrics": reply("session", _more_metrics, method="GET"),
    "vector.steps.reset": array("episode", lambda episode: episode * 0, "session/reset"),
    "vector.steps.reset_seed": asked("session/reset", lambda body: body.pop("seed", None)),
    "vector.steps.reset_bad": asked("session/reset", lambda body: drop_bad(body, "seed")),
    "vector.numbers.repeated": NUMBERLESS,
    "vector.numbers.repeated_reset": NUMBERLESS,
    "vector.numbers.changed": NUMBERLESS,
    "vector.numbers.wrong": NUMBERLESS,
    "vector.numbers.type": NUMBERLESS,
    "vector.numbers.refused": Fault(request=_refuse_after, answer=_count_refused),
    "vector.numbers.cut": Fault(answer=_remember_slots, cut=_step_on_cut),
    "vector.numbers.lost": NUMBERLESS,
    "vector.numbers.apart": Fault(answer=_every_seventh),
    "vector.encodings.same": Fault(answer=_json_reward),
    "vector.encodings.own": headers(lambda found: found.update(accept=JSON)),
    "vector.encodings.accept": headers(lambda found: found.pop("accept", None)),
    "vector.encodings.not_acceptable": headers(lambda found: found.pop("accept", None)),
    "vector.encodings.unsupported": headers(
        lambda found: found.update({"content-type": JSON}) if "text" in found.get("content-type", "") else None
    ),
    "vector.encodings.malformed": code("bad_request", "bad_value"),
    "vector.encodings.parameters": Fault(request=_strict_type),
    "vector.encodings.problems": Fault(answer=_problem_as_msgpack),
    "vector.actions.range": asked("session/step", _clip),
    "vector.actions.length": Fault(request=_fit, answer=_remember_slots),
    "vector.actions.type": asked("session/step", _to_int),
    "vector.actions.nan": Fault(request=_nan_to_zero),
    "vector.actions.missing": asked("session/step", lambda body: only_known(body, "step", "action")),
    "vector.actions.integers": Fault(request=_no_bytes),
    "vector.actions.packed": asked("session/step", _cast),
    "vector.actions.repaired": Fault(answer=_pay_after),
    "vector.determinism.seed": reply("session/step", _noise),
    "vector.determinism.other_seed": asked("sessions", _fixed_seed),
    "vector.determinism.width": asked("sessions", lambda body: body.pop("first_world", None)),
    "vector.determinism.episodes": reply("session/step", _other_start),
    "vector.determinism.interleaved": Fault(request=_asked_for, answer=_pay_asked),
    "vector.limits.body": Fault(patient=True),
    "vector.limits.whole_body": Fault(answer=code("too_large", "bad_value").answer, patient=True),
    "vector.limits.cut_requests": Fault(cut=_wound, answer=_limp),
    "vector.limits.path": code("unknown_path", "not_found"),
    "vector.limits.method": code("wrong_method", "bad_value"),
    "vector.limits.problem": Fault(answer=_no_error),
    "vector.state.restore": array("observation", lambda rows: rows * 0, "session/state"),
    "vector.state.refused": status("session/state", 400, 422),
    "vector.state.absent": reply("spec", lambda body: body["features"].remove("snapshot")),
    "vector.snapshot.world": reply("session/worlds/0", lambda body: body.update(world=1)),
    "vector.snapshot.unknown": Fault(answer=_crash_on_worlds),
    "vector.snapshot.same": reply("session/worlds/0", _new_snapshot),
    "vector.websocket.text": _socket(out=_wrong_rewards),
    "vector.websocket.binary": _socket(out=_text_for_binary),
    "vector.websocket.problem": _socket(out=_hang_up),
    "vector.websocket.numbers": _socket(**{"in": _refuse_repeats}),
    "vector.websocket.order": _socket(out=_swap_answers),
    "vector.websocket.unknown": _socket(out=_open_anyway),
    "vector.checksums.answers": Fault(answer=_checksum_of_another),
    "vector.checksums.requests": asked("session/step", lambda body: body.pop("crc32c", None)),
    "vector.checksums.websocket": _socket(**{"in": _no_checksum}),
}


def _refuse_beyond(exchange: Exchange, state: Body) -> None:
    """Refuse numbers beyond the bounds of Pendulum, as a strict server would."""
    del state
    if exchange.route == "session/step" and np.abs(_numbers(exchange.body["action"])).max() > 2:
        exchange.body = {**exchange.body, "action": "beyond"}


def _not_finite_to_zero(exchange: Exchange, state: Body) -> None:
    """Play numbers that are none as 0."""
    del state
    body = exchange.body
    if exchange.route == "session/step" and isinstance(body["action"], dict):
        numbers = _numbers(body["action"])
        data = np.where(np.isfinite(numbers), numbers, 0).astype(np.float32).tobytes()
        exchange.body = {**body, "action": {**body["action"], "data": data}}


def _numbers(action: Any) -> Any:
    packed = isinstance(action, dict)
    return np.frombuffer(action["data"], np.float32) if packed else np.array(action, np.float64)


#: The same for a server of real numbers.
STEERED_FAULTS: dict[str, Fault] = {
    "vector.actions.bounds": Fault(request=_refuse_beyond),
    "vector.actions.range": Fault(request=_not_finite_to_zero),
    "vector.spec.fields": reply("spec", lambda body: body["action_space"].pop("high")),
}


def _nobody_acts(route: str, status: int = 200) -> Fault:
    return reply(route, lambda body: body.update(active=edited(body["active"], lambda active: active & False)), status)


def _silent_about_waiting(exchange: Exchange, state: Body) -> None:
    del state
    if exchange.route in ("spec", "sessions") and "agents_wait" in (body := exchange.reply):
        exchange.reply = {name: value for name, value in body.items() if name != "agents_wait"}


def _ends_twice(body: Body) -> None:
    """Say of all agents that are not active that they end."""
    active, slots = read(body["active"]), read(body["ended"]["slots"])
    if len(slots):
        return
    ends = np.flatnonzero(~active).astype(np.int32)
    body["terminated"] = edited(body["terminated"], lambda _: ~active)
    rows = read(body["observation"])[ends]
    body["ended"]["slots"] = edited(body["ended"]["slots"], lambda _: ends)
    body["ended"]["observation"] = edited(body["ended"]["observation"], lambda last: rows.astype(last.dtype))


#: Of a server whose agents wait for their turn: checks, and what they must find.
WAITING_FAULTS: list[tuple[str, Fault]] = [
    ("vector.spec.fields", reply("spec", lambda body: body.update(agents_wait="yes"))),
    ("vector.sessions.create", _nobody_acts("sessions", 201)),
    ("vector.steps.autoreset", _nobody_acts("session/step")),
    ("vector.steps.reset", _nobody_acts("session/reset")),
    ("vector.steps.inactive", reply("session/step", _dirty_inactive)),
    ("vector.steps.inactive", reply("session/step", _ends_twice)),
    ("vector.sessions.create", Fault(answer=_silent_about_waiting)),
]


def _changed(change: Callable[[Any], Any]) -> Fault:
    """Read actions of three whole numbers otherwise than they were sent; what is none of such is left alone."""

    def edit(body: Body) -> None:
        action = body.get("action")
        rows = read(action) if isinstance(action, dict) and action.get("dtype") == "int64" else None
        if isinstance(action, list) and all(isinstance(row, list) and row for row in action):
            rows = np.array([[*row, 0][:3] for row in action], object)  # a row that lacks a number gets one
        if rows is not None and rows.shape[1:] == (3,) and not any(isinstance(one, str | bool) for one in rows.flat):
            body["action"] = (
                change(rows.astype(object)).tolist() if isinstance(action, list) else edited(action, change)
            )

    return asked("session/step", edit)


def _without_others(rows: Any) -> Any:
    rows[:, 1:] = 0
    return rows


def _fold_last(rows: Any) -> Any:
    rows[:, 2] %= 4
    return rows


def _says_sizes(*sizes: int) -> Fault:
    """Describe other sizes than the actions have, in the spec and in sessions."""

    def answer(exchange: Exchange, state: Body) -> None:
        if exchange.route in ("spec", "sessions") and exchange.status < 300:
            exchange.reply = exchange.reply | {"action_space": {"kind": "multi_discrete", "sizes": list(sizes)}}

    return Fault(answer=answer)


#: The same for a server whose actions are three whole numbers, below 3, 2 and 4.
SEVERAL_FAULTS: list[tuple[str, Fault]] = [
    ("vector.spec.protocol", reply("spec", lambda body: body.update(protocol="rattle.vector/1"))),
    ("vector.spec.fields", reply("spec", lambda body: body["action_space"].update(sizes=[3, 0, 4]))),
    ("vector.spec.fields", reply("spec", lambda body: body["action_space"].update(sizes=24))),
    ("vector.spec.fields", reply("spec", lambda body: body["action_space"].pop("sizes"))),
    ("vector.spec.fields", reply("spec", lambda body: body.update(num_actions=24))),
    ("vector.steps.fields", _says_sizes(3, 2, 5)),
    ("vector.steps.fields", _says_sizes(3, 2)),
    ("vector.actions.range", _says_sizes(3, 2, 3)),
    ("vector.actions.range", _changed(_fold_last)),
    ("vector.actions.numbers", _changed(_without_others)),
    ("vector.actions.length", _changed(lambda rows: rows)),
]
