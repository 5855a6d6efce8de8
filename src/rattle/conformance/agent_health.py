"""Checks of `GET /`."""

from __future__ import annotations

from typing import Any

from rattle.conformance.agent_play import READY, capacity, health, several
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import expect, kind, skip
from rattle.conformance.streams import joined
from rattle.conformance.target import JSON_TYPE, Target

CHECKS = CheckGroup()
_HEALTH: dict[str, type] = {
    "service": str,
    "environment": str,
    "version": str,
    "game_over": bool,
    "agents": int,
    "capacity": int,
    "tick": int,
    "clock": str,
}
_CLOCKS = ("realtime", "turns", "sync", "lockstep")


def expect_fields(found: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """End the check unless an object has all fields, each of its type."""
    for name, types in wanted.items():
        expect(name in found, f"{where} lacks {name}", expected=", ".join(wanted), got=", ".join(found))
        value = found[name]
        fits = isinstance(value, types) and (types is bool or not isinstance(value, bool))
        expect(fits, f"{name} in {where} is {kind(value)}", expected=_type(types), got=value)


def _type(types: Any) -> str:
    words = {bool: "a boolean", int: "an integer", str: "a string", dict: "an object", (int, float): "a number"}
    return words[types]


@CHECKS.check("agent.health.answer", "GET / answers 200 with a JSON object")
def answer(target: Target) -> None:
    """Whole and readable, every time."""
    for _ in range(2):
        found = target.request("GET", "/")
        found.object()
        expect(found.media_type == JSON_TYPE, f"GET / is answered in {found.media_type}", expected=JSON_TYPE)


@CHECKS.check("agent.health.fields", "GET / describes the server and the state of the game", ("agent.health.answer",))
def health_fields(target: Target) -> None:
    """Every field, each of its type."""
    found = target.fact(health)
    expect_fields(found, _HEALTH, "GET /")
    for name, least in (("agents", 0), ("capacity", 1), ("tick", 0)):
        expect(found[name] >= least, f"{name} is {found[name]}", expected=f"{least} or more", got=found)
    expect(
        found["clock"] in _CLOCKS, f"clock is {found['clock']!r}", expected=f"one of {', '.join(_CLOCKS)}", got=found
    )


@CHECKS.check("agent.health.agents", "GET / counts the living snakes", ("agent.health.fields", *READY))
def agents(target: Target) -> None:
    """None after a reset, and as many as have joined."""
    for _ in range(3):  # a snake may die before it is counted
        target.request("POST", "/reset")
        before = health(target)["agents"]
        with joined(target, several(target)) as readers:
            during = health(target)["agents"]
            if any(reader.over for reader in readers):
                continue
        expect(before == 0, f"agents is {before} right after POST /reset", expected=0, got=before)
        expect(
            during == len(readers),
            f"agents is {during} after {len(readers)} snakes have joined",
            expected=len(readers),
            got=during,
        )
        return
    skip("the snakes died too soon to be counted")


@CHECKS.check(
    "agent.health.capacity",
    "As many snakes as capacity says can join at once",
    ("agent.health.fields", *READY),
)
def room(target: Target) -> None:
    """Judged up to 16."""
    wanted = min(capacity(target), 16)
    with joined(target, wanted):
        pass
