"""Broken agent servers, for checks that no fault of the mock environment is about."""

from __future__ import annotations

from tests.conformance.broken_env import PROBLEM, Body, Exchange, Fault
from tests.conformance.vector_faults import Edit, asked, code, drop_bad, only_known, reply


def _line(edit: Edit) -> Fault:
    def line(body: Body, state: Body) -> list[Body]:
        edit(body)
        return [body]

    return Fault(line=line)


def _hide_neck(body: Body) -> None:
    body["visible_cells"]["2,3"] = "EMPTY"


def _as_json(exchange: Exchange, state: Body) -> None:
    exchange.answer_type = "application/json"


def _count_stream(exchange: Exchange, state: Body) -> None:
    state["streams"] = state.get("streams", 0) + 1


def _say_streams(exchange: Exchange, state: Body) -> None:
    """Count readers for snakes; a reset forgets them."""
    if exchange.route == "reset":
        state["streams"] = 0
    elif exchange.route == "/":
        exchange.reply = {**exchange.reply, "agents": state.get("streams", 0)}


def _forget_dead(body: Body) -> None:
    body["status"] = {snake: status for snake, status in body["status"].items() if not status["game_over"]}


def _one_stream(exchange: Exchange, state: Body) -> None:
    """Let no id join twice."""
    if exchange.method == "GET" and exchange.route == "snake":
        if exchange.path in state:
            exchange.status, exchange.answer_type, exchange.answer = 409, PROBLEM, b'{"code":"bad_value"}'
        state[exchange.path] = True


def _no_repeats(exchange: Exchange, state: Body) -> None:
    if exchange.route == "snake/move":
        if state.get("last") == (exchange.path, exchange.content):
            exchange.status, exchange.answer_type, exchange.answer = 409, PROBLEM, b'{"code":"wrong_step"}'
        state["last"] = (exchange.path, exchange.content)


def _turned(body: Body) -> None:
    swap = {"left": "right", "right": "left"}
    body["move"] = swap.get(body["move"], body["move"]) if isinstance(body.get("move"), str) else body.get("move")


def _drift(body: Body) -> None:
    if body.get("move") == "forward":
        body["move"] = "left"


def _reset_all(exchange: Exchange, state: Body) -> None:
    if exchange.route == "snake/reset":
        state["reset"] = exchange.path.split("/")[2]
        exchange.path = "/reset"


def _say_reset(exchange: Exchange, state: Body) -> None:
    if "reset" in state and exchange.path == "/reset" and exchange.status == 200:
        exchange.reply = {"snake_id": state.pop("reset"), "game_over": False}


def _crash_when_deep(exchange: Exchange, state: Body) -> None:
    if b"[[[[" in exchange.content:
        exchange.status = 500


def _any_id(exchange: Exchange, state: Body) -> None:
    exchange.path = exchange.path.replace(" ", "_")


def _short_ids(exchange: Exchange, state: Body) -> None:
    if exchange.route == "snake" and len(exchange.path) > 50:
        exchange.status, exchange.answer_type, exchange.answer = 400, PROBLEM, b'{"code":"bad_value"}'


def _late_datetime(body: Body) -> None:
    body["datetime"] = body["datetime"].partition("+")[0]


FAULTS: dict[str, Fault] = {
    "agent.health.fields": reply("/", lambda body: body.pop("capacity")),
    "agent.health.agents": reply("/", lambda body: body.update(agents=body["agents"] + 1)),
    "agent.health.capacity": reply("/", lambda body: body.update(capacity=body["capacity"] + 1)),
    "agent.stream.type": Fault(head=_as_json),
    "agent.stream.neck": _line(_hide_neck),
    "agent.stream.datetime": _line(_late_datetime),
    "agent.stream.end": Fault(endless=True),
    "agent.stream.one_snake": Fault(head=_count_stream, answer=_say_streams),
    "agent.stream.lines_value": code("bad_value", "bad_request", "snake"),
    "agent.state.fields": reply("state", lambda body: body.pop("grid")),
    "agent.state.agrees": reply(
        "state", lambda body: [cells.update({"2,1": "BODY"}) for cells in body["visions"].values()]
    ),
    "agent.state.grid": reply(
        "state", lambda body: body["grid"].update({"99,0": [{"type": "FOOD", "snake_id": None}]})
    ),
    "agent.state.dead": reply("state", _forget_dead),
    "agent.moves.words": asked("snake/move", lambda body: body.pop("move") if body.get("move") == "right" else None),
    "agent.moves.repeated": Fault(request=_no_repeats),
    "agent.moves.dead": reply("snake/move", lambda body: body.update(game_over=False)),
    "agent.moves.steers": asked("snake/move", _turned),
    "agent.moves.forward": asked("snake/move", _drift),
    "agent.resets.answer": reply("reset", lambda body: body.pop("seed")),
    "agent.resets.episode": reply("state", lambda body: body.update(episode=0)),
    "agent.resets.bad_seed": asked("reset", lambda body: drop_bad(body, "seed")),
    "agent.resets.body": code("bad_request", "bad_value", "reset"),
    "agent.resets.rejoin": Fault(request=_one_stream),
    "agent.resets.snake": reply("snake/reset", lambda body: body.update(game_over=True)),
    "agent.resets.snake_alone": Fault(request=_reset_all, answer=_say_reset),
    "agent.errors.unknown_field": asked("snake/move", lambda body: only_known(body, "move")),
    "agent.errors.bodies": code("bad_request", "bad_value", "snake/move"),
    "agent.errors.deep": Fault(answer=_crash_when_deep, patient=True),
    "agent.errors.large": Fault(patient=True),
    "agent.errors.ids": Fault(request=_any_id),
    "agent.errors.longest_id": Fault(request=_short_ids),
    "agent.errors.path": code("unknown_path", "not_found"),
    "agent.errors.method": code("wrong_method", "bad_value"),
    "agent.errors.full": Fault(answer=lambda exchange, state: exchange.answer_headers.clear()),
}
