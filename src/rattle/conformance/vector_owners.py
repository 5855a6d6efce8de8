"""Checks of the feature owners: a client that was killed and started again takes the places that it left."""

from __future__ import annotations

import secrets
from typing import Any

from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import expect, skip
from rattle.conformance.target import Target
from rattle.conformance.vector_play import CheckedSession, session
from rattle.conformance.vector_spec import spec

CHECKS = CheckGroup()
_MADE = ("vector.sessions.create",)
_REPLACED = ("vector.owners.later_life",)


def _owner(target: Target, life: str, owner: str = "") -> dict[str, Any]:
    """Return the fields of a session's owner, by default one that nobody else is; skips without the feature."""
    if "owners" not in target.fact(spec)["features"]:
        skip("the server does not have the feature owners")
    return {"owner": owner or f"check-{secrets.token_hex(6)}", "life": life}


def _is_there(opened: CheckedSession, what: str) -> None:
    answer = opened.target.request("GET", opened.path)
    expect(answer.status == 200, what, expected="200: the session continues", got=str(answer))


def _is_gone(opened: CheckedSession) -> None:
    """End the check unless no route knows the session any more."""
    opened.target.request("GET", opened.path).problem(404, "unknown_session")
    opened.post("step", {"step": opened.next_step, "action": opened.forward()}).problem(404, "unknown_session")


@CHECKS.check("vector.owners.later_life", "A session of an owner's later life ends those of the earlier one", _MADE)
def later_life(target: Target) -> None:
    """All of them, and only those."""
    first = _owner(target, "first")
    others = _owner(target, "first")
    with (
        session(target, 1, **first) as one,
        session(target, 2, **first) as two,
        session(target, 1, **others) as other,
        session(target, 1) as nobody,
    ):
        for opened in (one, two, other, nobody):
            _is_there(opened, "a session ends though nobody has taken its place")
        with session(target, 1, **{**first, "life": "second"}) as later:
            _is_gone(one)
            _is_gone(two)
            _is_there(later, "the session of the later life is not there")
            _is_there(other, "another owner's session ends")
            _is_there(nobody, "a session without an owner ends")
            nobody.step(nobody.forward())


@CHECKS.check("vector.owners.over", "A life that is over is refused with replaced", _REPLACED)
def over(target: Target) -> None:
    """It must not take its places back from the later one."""
    first = _owner(target, "first")
    with session(target, 1, **first), session(target, 1, **{**first, "life": "second"}) as later:
        answer = target.request("POST", "/v1/sessions", {"worlds": 1, **first})
        if answer.status == 201:
            target.request("DELETE", f"/v1/sessions/{answer.object(201).get('session')}")
        answer.problem(409, "replaced")
        _is_there(later, "the later life's session ends when the earlier one asks for another")


@CHECKS.check("vector.owners.room", "A later life gets the earlier one's places if the server is full", _REPLACED)
def room(target: Target) -> None:
    """Else a client that was killed could not begin again until its sessions expire."""
    most = target.fact(spec)["limits"]["sessions"]
    first = _owner(target, "first")
    if most > 128:
        skip(f"limits.sessions is {most}: the checker does not open more than 128")
    made: list[str] = []
    try:
        for _ in range(most):
            answer = target.request("POST", "/v1/sessions", {"worlds": 1, **first})
            if answer.status != 201:
                break  # others have sessions too
            made.append(answer.object(201)["session"])
        answer = target.request("POST", "/v1/sessions", {"worlds": 1, **first, "life": "second"})
        if answer.status == 201:
            made.append(answer.object(201)["session"])
        expect(
            answer.status == 201,
            "the server is full of an owner's sessions, and refuses the one of its later life",
            expected="201: the earlier life's sessions end first",
            got=str(answer),
        )
    finally:
        kept = target.evidence
        for name in made:
            target.request("DELETE", f"/v1/sessions/{name}")
        target.evidence = kept


@CHECKS.check("vector.owners.bad", "owner and life are texts of 1 to 256 characters, and are given together", _MADE)
def bad(target: Target) -> None:
    """Everything else is refused, and the field is named."""
    _owner(target, "")
    for body, field in (
        ({"owner": "anna"}, "life"),
        ({"life": "1"}, "owner"),
        ({"owner": "anna", "life": 1}, "life"),
        ({"owner": ["anna"], "life": "1"}, "owner"),
        ({"owner": "a" * 257, "life": "1"}, "owner"),
        ({"owner": "anna", "life": "1" * 257}, "life"),
    ):
        answer = target.request("POST", "/v1/sessions", {"worlds": 1, **body})
        if answer.status == 201:
            target.request("DELETE", f"/v1/sessions/{answer.object(201).get('session')}")
        answer.problem(400, "bad_value", field)
