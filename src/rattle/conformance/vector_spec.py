"""Checks of `GET /v1/spec`, from which all other checks of the vector API start."""

from __future__ import annotations

from typing import Any

from rattle.conformance.action_space import read_actions
from rattle.conformance.arrays import MSGPACK
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import expect, fail, kind, skip
from rattle.conformance.observation_space import read_observed
from rattle.conformance.target import JSON_TYPE, MSGPACK_TYPE, Target, decode

CHECKS = CheckGroup()
_FIELDS: dict[str, type] = {
    "service": str,
    "version": str,
    "environment": str,
    "settings": dict,
    "observation_space": dict,
    "agents_per_world": int,
    "metrics": list,
    "features": list,
    "limits": dict,
}
_PROTOCOLS = ("rattle.vector/1", "rattle.vector/2")
#: Kinds of spaces that clients of the first protocol do not know, and the version that brought them.
_LATER_KINDS = {"multi_discrete": 2, "array": 2, "parts": 2}
_WORDS = {str: "a string", dict: "an object", int: "an integer", list: "a list"}


def spec(target: Target) -> dict[str, Any]:
    """Return the spec in JSON."""
    return target.request("GET", "/v1/spec").object()


def batch(target: Target) -> dict[str, Any] | None:
    """Return what the spec says of code that steps all worlds of a session in one call; None where there is none."""
    found: dict[str, Any] | None = target.fact(spec).get("batch")
    return found


def skip_shared(target: Target) -> None:
    """Skip a check of what worlds that share what they draw do not promise."""
    if (found := batch(target)) is not None and not found["any_width"]:
        skip(f"the spec says of {found['stepped_by']} that any_width is false: games depend on their session's size")


@CHECKS.check("vector.spec.answer", "GET /v1/spec answers 200 with a JSON object for protocol rattle.vector/1 or /2")
def answer(target: Target) -> None:
    """The spec can be had, and says which protocol it is of."""
    found = target.request("GET", "/v1/spec")
    body = found.object()
    expect(found.media_type == JSON_TYPE, "a GET without Accept is not answered in JSON", got=found.media_type)
    protocol = body.get("protocol")
    expect(
        protocol in _PROTOCOLS,
        f"protocol is {protocol!r}: clients refuse a server of another protocol",
        expected=" or ".join(f'"protocol": "{known}"' for known in _PROTOCOLS),
        got=protocol,
    )


@CHECKS.check(
    "vector.spec.protocol",
    "A server with spaces that only newer clients know says rattle.vector/2",
    ("vector.spec.answer",),
)
def protocol(target: Target) -> None:
    """Older clients are refused by the protocol, in a line that they understand."""
    body = target.fact(spec)
    for field in ("observation_space", "action_space"):
        found = body.get(field)
        known = found.get("kind") if isinstance(found, dict) else None
        wanted = _PROTOCOLS[_LATER_KINDS.get(str(known), 1) - 1]
        if known == "codes" and isinstance(found, dict) and str(found.get("codes")).isdigit() and found["codes"] > 256:
            wanted = _PROTOCOLS[1]
        expect(
            body["protocol"] >= wanted,
            f"protocol is {body['protocol']!r}, whose clients do not know the {field} of kind {known!r}",
            expected=f'"protocol": "{wanted}"',
            got=body["protocol"],
        )


@CHECKS.check("vector.spec.fields", "The spec has every field, each of its type", ("vector.spec.answer",))
def spec_fields(target: Target) -> None:
    """Every field is there."""
    body = target.fact(spec)
    for name, wanted in _FIELDS.items():
        expect(name in body, f"the spec lacks {name}", expected=name, got=", ".join(body))
        fits = isinstance(body[name], wanted) and not isinstance(body[name], bool)
        expect(fits, f"{name} is {kind(body[name])}, not {_WORDS[wanted]}", expected=_WORDS[wanted], got=body[name])
    agents = body["agents_per_world"]
    expect(agents >= 1, f"agents_per_world is {agents}: it must be at least 1", expected="1 or more", got=agents)
    read_actions(body)
    waits = body.get("agents_wait", False)
    expect(isinstance(waits, bool), f"agents_wait is {kind(waits)}, not a boolean", expected="true or none", got=waits)
    _check_batch(body.get("batch"))
    for name in ("metrics", "features"):
        texts = all(isinstance(entry, str) for entry in body[name]) and len(set(body[name])) == len(body[name])
        expect(texts, f"{name} must be a list of different strings", got=body[name])


def _check_batch(found: Any) -> None:
    is_right = isinstance(found, dict) and isinstance(found.get("stepped_by"), str)
    expect(
        found is None or (is_right and isinstance(found.get("any_width"), bool)),
        "batch is not an object with stepped_by, a string, and any_width, true or false",
        expected='{"stepped_by": "…", "any_width": false}, or no batch',
        got=found,
    )


@CHECKS.check(
    "vector.spec.space", "The observation space is of a known kind and has its sizes", ("vector.spec.fields",)
)
def space(target: Target) -> None:
    """All clients lay out arrays by it."""
    read_observed(target.fact(spec)["observation_space"])


@CHECKS.check("vector.spec.limits", "The spec has the limits of the server", ("vector.spec.fields",))
def limits(target: Target) -> None:
    """Clients size their batches by these numbers."""
    found = target.fact(spec)["limits"]
    for name in ("sessions", "worlds", "body_bytes"):
        value = found.get(name)
        expect(
            type(value) is int and value >= 1,
            f"limits.{name} is {value!r}: it must be a whole number of at least 1",
            expected="1 or more",
            got=found,
        )
    seconds = found.get("session_seconds")
    expect(
        isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0,
        f"limits.session_seconds is {seconds!r}: it must be a number above 0",
        expected="seconds",
        got=found,
    )


@CHECKS.check(
    "vector.spec.messagepack", "Accept: application/msgpack gives the same spec in MessagePack", ("vector.spec.answer",)
)
def messagepack(target: Target) -> None:
    """Both encodings carry the same object."""
    found = target.request("GET", "/v1/spec", headers={"Accept": MSGPACK_TYPE})
    if found.status in (406, 415):
        fail("the server speaks JSON only: nothing of Rattle trains in it", expected="MessagePack", got=str(found))
    body = {name: value for name, value in found.object().items() if name != "crc32c"}
    expect(
        found.media_type == MSGPACK_TYPE,
        f"the spec comes as {found.media_type} though Accept asks for {MSGPACK_TYPE}",
        expected=MSGPACK_TYPE,
        got=found.media_type,
    )
    plain = target.fact(spec)
    expect(
        decode(MSGPACK_TYPE, MSGPACK.encode(plain)) == body,
        "the spec in MessagePack is not the one in JSON",
        expected=plain,
        got=body,
    )
