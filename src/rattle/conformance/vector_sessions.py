"""Checks of making, asking for and deleting sessions."""

from __future__ import annotations

from typing import Any

from rattle.conformance.action_space import FIELDS
from rattle.conformance.arrays import read_array
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import an_object, expect, skip
from rattle.conformance.target import HttpAnswer, Target
from rattle.conformance.vector_play import session
from rattle.conformance.vector_spec import spec

CHECKS = CheckGroup()
_SPEC = ("vector.spec.fields", "vector.spec.space", "vector.spec.limits")
_MADE = ("vector.sessions.create",)
#: A server that allows more sessions than this is not filled up.
_MOST_SESSIONS = 128


def _create(target: Target, body: Any) -> HttpAnswer:
    return target.request("POST", "/v1/sessions", body)


def _refused(target: Target, body: Any, field: str, why: str) -> None:
    """End the check unless the session is refused; one that was made by mistake is deleted."""
    answer = _create(target, body)
    if answer.status == 201:
        target.request("DELETE", f"/v1/sessions/{answer.object(201).get('session')}")
        expect(False, f"a session was made with {why}: it must be refused", expected="400 bad_value", got=str(answer))
    answer.problem(400, "bad_value", field)


@CHECKS.check(
    "vector.sessions.create", "POST /v1/sessions answers 201 with the session and its first observations", _SPEC
)
def create(target: Target) -> None:
    """Every field of the answer."""
    with session(target, 3, seed=5) as opened:
        made = opened.made
        expect(isinstance(made["session"], str) and made["session"], f"session is {made['session']!r}, not a string")
        for name in ("seed", "first_world", "expires_seconds", "environment", "settings"):
            expect(name in made, f"the answer lacks {name}", expected=name, got=", ".join(made))
        expect(opened.first.step == 0, f"a new session is at step {opened.first.step}", expected=0)
        active, shape = opened.first.active, opened.shape
        wanted = "one active slot a world" if shape.agents_wait else "active true, or agents_wait true in the spec"
        expect(shape.are_awake(active), f"{shape.too_few_active} in a new session", expected=wanted, got=active)
        expect((opened.first.episode == 0).all(), "a new session is not in episode 0", got=opened.first.episode)


@CHECKS.check("vector.sessions.spec", "A session repeats what the spec says of its environment", _MADE)
def same_spec(target: Target) -> None:
    """Without options a session has what the spec says."""
    with session(target, 1) as opened:
        for name in (
            "environment",
            "settings",
            "observation_space",
            *FIELDS,
            "agents_per_world",
            "metrics",
            "agents_wait",
        ):
            wanted = target.fact(spec).get(name)
            got = opened.made.get(name)
            expect(got == wanted, f"{name} of a session is not that of the spec", expected=wanted, got=got)


@CHECKS.check("vector.sessions.given", "A session has the seed and the first_world that were asked for", _MADE)
def given(target: Target) -> None:
    """Both are echoed; 0 is the default of first_world."""
    with session(target, 1, seed=2**63 - 1, first_world=7) as opened:
        for name, wanted in (("seed", 2**63 - 1), ("first_world", 7)):
            got = opened.made[name]
            expect(got == wanted, f"{name} is {got!r} after asking for {wanted}", expected=wanted, got=got)
    with session(target, 1) as opened:
        got = opened.made["first_world"]
        expect(got == 0, f"first_world is {got!r} without one in the request", expected=0, got=got)


@CHECKS.check("vector.sessions.seeds", "Without a seed the server draws a different one each time", _MADE)
def drawn_seeds(target: Target) -> None:
    """Two sessions without a seed play different games."""
    seeds = []
    for _ in range(2):
        with session(target, 1) as opened:
            seed = opened.made["seed"]
            fits = type(seed) is int and 0 <= seed < 2**64
            expect(fits, f"seed is {seed!r}", expected="an integer from 0 on", got=seed)
            seeds.append(seed)
    expect(seeds[0] != seeds[1], "two sessions without a seed got the same one", got=seeds)


@CHECKS.check("vector.sessions.ids", "Sessions that are open at once have different ids", _MADE)
def ids(target: Target) -> None:
    """An id names one session."""
    with session(target, 1) as one, session(target, 1) as other:
        expect(one.id != other.id, "two open sessions have the same id", got=one.id)


@CHECKS.check("vector.sessions.expires", "expires_seconds is a number above 0", _MADE)
def expires(target: Target) -> None:
    """Clients plan their keep-alive by it."""
    with session(target, 1) as opened:
        value = opened.made["expires_seconds"]
        fits = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        expect(fits, f"expires_seconds is {value!r}", expected="seconds", got=value)


@CHECKS.check("vector.sessions.worlds", "worlds must be a whole number from 1 to limits.worlds", _MADE)
def bad_worlds(target: Target) -> None:
    """Everything else is refused, and the field is named."""
    for value in (0, -1, 1.5, "4", None, True, [4]):
        _refused(target, {"worlds": value}, "worlds", f'"worlds": {value!r}')
    _refused(target, {}, "worlds", "no worlds")
    most = target.fact(spec)["limits"]["worlds"]
    answer = _create(target, {"worlds": most + 1})
    if answer.status != 503:  # a server may also say that it has no room
        answer.problem(400, "bad_value", "worlds")


@CHECKS.check("vector.sessions.numbers", "seed and first_world must be whole numbers that are not negative", _MADE)
def bad_numbers(target: Target) -> None:
    """Of 64 bits at most."""
    for value in (-1, 1.5, "1", 2**80):
        _refused(target, {"worlds": 1, "seed": value}, "seed", f'"seed": {value!r}')
    for value in (-1, 0.5, "0"):
        _refused(target, {"worlds": 1, "first_world": value}, "first_world", f'"first_world": {value!r}')


@CHECKS.check("vector.sessions.unknown_field", "An unknown field is refused, and the answer names it", _MADE)
def unknown_field(target: Target) -> None:
    """A misspelt field must not be ignored."""
    _refused(target, {"worlds": 1, "wrolds": 2}, "wrolds", "the unknown field wrolds")


@CHECKS.check("vector.sessions.options", "Options that the environment does not have are refused", _MADE)
def options(target: Target) -> None:
    """With or without the feature, an option must not be ignored."""
    answer = _create(target, {"worlds": 1, "options": {"no_such_option": 1}})
    if answer.status == 201:
        target.request("DELETE", f"/v1/sessions/{answer.object(201).get('session')}")
    problem = answer.problem(400, "bad_value")
    field = problem.get("field")
    named = isinstance(field, str) and (field == "no_such_option" or field.startswith("options"))
    expect(
        named, f"the problem names field {field!r}", expected='"options" or "options.no_such_option"', got=str(answer)
    )


@CHECKS.check("vector.sessions.body", "A body that is not an object is refused as bad_request", _MADE)
def bodies(target: Target) -> None:
    """Broken JSON, an empty body, and JSON of another type."""
    for content in (b"", b"{", b"[]", b"3", b'{"worlds": 1', b"\xff\xfe"):
        answer = target.request("POST", "/v1/sessions", content=content)
        answer.problem(400, "bad_request")


@CHECKS.check("vector.sessions.get", "GET of a session answers its step number and its metrics so far", _MADE)
def get(target: Target) -> None:
    """It follows the steps."""
    with session(target, 2, seed=3, first_world=1) as opened:
        opened.step(opened.forward())
        body = target.request("GET", opened.path).object()
        wanted = {"session": opened.id, "step": 1, "seed": 3, "first_world": 1, "worlds": 2}
        for name, value in wanted.items():
            expect(body.get(name) == value, f"{name} is {body.get(name)!r}", expected=value, got=body)
        metrics = an_object(body.get("metrics"), "metrics")
        names = sorted(opened.shape.metrics)
        expect(sorted(metrics) == names, "metrics does not have those of the spec", expected=names, got=sorted(metrics))
        for name, values in metrics.items():
            read_array(values, f"metrics.{name}", "int32", (opened.shape.slots,))


@CHECKS.check("vector.sessions.delete", "DELETE answers 204 without a body, and the session is gone", _MADE)
def delete(target: Target) -> None:
    """Every route of it then says unknown_session."""
    with session(target, 1) as opened:
        answer = target.request("DELETE", opened.path).expect_status(204)
        expect(not answer.content, "a 204 has no body", got=str(answer))
        target.request("GET", opened.path).problem(404, "unknown_session")
        opened.post("step", {"step": 1, "action": opened.forward()}).problem(404, "unknown_session")
        target.request("DELETE", opened.path).problem(404, "unknown_session")


@CHECKS.check("vector.sessions.unknown", "Sessions that never existed are unknown_session", _MADE)
def unknown(target: Target) -> None:
    """On every route."""
    base = "/v1/sessions/rattle-no-such-session"
    target.request("GET", base).problem(404, "unknown_session")
    target.request("DELETE", base).problem(404, "unknown_session")
    target.request("POST", f"{base}/reset", {"step": 1}).problem(404, "unknown_session")
    target.request("POST", f"{base}/step", {"step": 1, "action": [0]}).problem(404, "unknown_session")


@CHECKS.check("vector.sessions.full", "A session above the limit is refused with 503 full and Retry-After", _MADE)
def full(target: Target) -> None:
    """The room is there again once sessions are deleted."""
    most = target.fact(spec)["limits"]["sessions"]
    if most > _MOST_SESSIONS:
        skip(f"limits.sessions is {most}: the checker does not open more than {_MOST_SESSIONS}")
    made: list[str] = []
    try:
        for _ in range(most + 1):
            answer = _create(target, {"worlds": 1})
            if answer.status != 201:
                break
            made.append(answer.object(201)["session"])
        expect(len(made) <= most, f"{most + 1} sessions were made, though limits.sessions is {most}")
        answer.problem(503, "full")
        expect("retry-after" in answer.headers, "a 503 must say when to try again", expected="Retry-After: seconds")
    finally:
        kept = target.evidence
        for name in made:
            target.request("DELETE", f"/v1/sessions/{name}")
        target.evidence = kept
    with session(target, 1):
        pass
