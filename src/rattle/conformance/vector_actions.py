"""Checks of actions that must be refused, and of those that must be taken."""

from __future__ import annotations

from typing import Any

import numpy as np

from rattle.conformance.arrays import JSON, MSGPACK, Array
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import expect, fail, skip
from rattle.conformance.target import Target
from rattle.conformance.vector_play import CheckedSession, encodings, expect_same, read_step, session

CHECKS = CheckGroup()
_STEPPED = ("vector.steps.fields",)
#: Steps after which a number that has changed nothing is thought to be ignored, and what it might have changed.
_PLAYED, _OUTCOME = 100, ("observation", "reward", "terminated", "truncated", "episode")


def _refuse(opened: CheckedSession, body: dict[str, Any], what: str, field: str = "action") -> None:
    """End the check unless the step is refused, with the field, and the number stays."""
    answer = opened.post("step", body)
    expect(
        answer.status != 200,
        f"a step with {what} is taken: it must be refused",
        expected=f"400 bad_value, field {field}",
        got=str(answer),
    )
    answer.problem(400, "bad_value", field)


def _then_steps(opened: CheckedSession, what: str) -> None:
    answer = opened.post("step", {"step": opened.next_step, "action": opened.forward()})
    expect(
        answer.status == 200,
        f"after {what} was refused, step {opened.next_step} is not taken: a refused request uses up no number",
        expected="200",
        got=str(answer),
    )
    opened.take(read_step(answer.object(), opened.shape))


@CHECKS.check(
    "vector.actions.range",
    "Whole numbers below 0 or too large, each by its own size, and real ones that are not finite are bad_value",
    _STEPPED,
)
def out_of_range(target: Target) -> None:
    """In any slot, also the last; only MessagePack has numbers that are not finite."""
    encoding = target.fact(encodings)[-1]
    with session(target, 3, seed=1, encoding=encoding) as opened:
        actions = opened.shape.actions
        if actions.sizes is None and encoding is JSON:
            skip("the server speaks JSON only, which has no numbers that are not finite")
        for action, what in actions.wrong(opened.forward()):
            _refuse(opened, {"step": opened.next_step, "action": action}, what)
            _then_steps(opened, what)
        if actions.sizes is not None:
            huge = [*opened.forward().tolist()[:-1], _filled(actions.row, 2**63)]
            content = JSON.encode({"step": opened.next_step, "action": huge})
            answer = target.request("POST", f"{opened.path}/step", content=content)
            answer.problem(400, "bad_value", "action")


@CHECKS.check("vector.actions.bounds", "Real numbers beyond their bounds count as the bounds", _STEPPED)
def bounds(target: Target) -> None:
    """What policies draw lies beyond them at times."""
    with session(target, 3, seed=1) as opened, session(target, 3, seed=1) as other:
        if (pair := opened.shape.actions.beyond(opened.forward())) is None:
            skip("actions have no upper bounds")
        for _ in range(10):
            expect_same(other.step(pair[1]), opened.step(pair[0]), "an action beyond its bounds plays otherwise")


@CHECKS.check("vector.actions.numbers", "Numbers of an action after its first one have an effect", _STEPPED)
def numbers(target: Target) -> None:
    """A server that reads the first number alone plays other games than a policy means."""
    with session(target, 3, seed=1) as opened, session(target, 3, seed=1) as other:
        if int(np.prod(opened.shape.actions.row)) < 2:
            skip("actions have one number")
        for step in range(_PLAYED):
            action = opened.actions_for(step)
            first = action.reshape(len(action), -1).copy()
            first[:, 1:] = 0
            one, two = opened.step(action), other.step(first.reshape(action.shape))
            if any(not np.array_equal(getattr(one, name), getattr(two, name)) for name in _OUTCOME):
                return
        fail(
            f"in {_PLAYED} steps of 3 worlds nothing depends on any number of an action after its first one",
            expected="another game where other numbers change",
            got="the same game",
        )


@CHECKS.check(
    "vector.actions.length",
    "Actions of another length than the number of slots, or of another shape, are bad_value",
    _STEPPED,
)
def length(target: Target) -> None:
    """Too few, too many, none, nested, a single number."""
    with session(target, 3, seed=1) as opened:
        rows = opened.forward().tolist()
        wrong: list[tuple[Any, str]] = [
            (rows[1:], "an action too few"),
            ([*rows, rows[0]], "an action too many"),
            ([], "no actions"),
            ([[row] for row in rows], "nested actions"),
            (0, "a single number as actions"),
            *([([*rows[:-1], rows[-1][:-1]], "an action that lacks a number")] if opened.shape.actions.row else []),
            ({"0": 0}, "an object as actions"),
        ]
        for action, what in wrong:
            _refuse(opened, {"step": opened.next_step, "action": action}, what)
            _then_steps(opened, what)


@CHECKS.check(
    "vector.actions.type",
    "Actions are numbers: strings, booleans and null are bad_value, and floats where they are whole",
    _STEPPED,
)
def types(target: Target) -> None:
    """Also a number with a fraction of zero, in neither encoding."""
    with session(target, 3, seed=1) as opened:
        for value in ("0", None, True, *(() if opened.shape.actions.sizes is None else (0.5,))):
            action = [*opened.forward().tolist()[:-1], _filled(opened.shape.actions.row, value)]
            _refuse(opened, {"step": opened.next_step, "action": action}, f"action {value!r}")
            _then_steps(opened, f"action {value!r}")


def _filled(row: tuple[int, ...], value: Any) -> Any:
    """Return nested lists of a value."""
    return [_filled(row[1:], value) for _ in range(row[0])] if row else value


@CHECKS.check("vector.actions.nan", "NaN in JSON is refused", _STEPPED)
def nan(target: Target) -> None:
    """NaN is no JSON; a lenient reader finds a float that is no action."""
    with session(target, 2, seed=1) as opened:
        numbers = JSON.encode(opened.forward().tolist()).replace(b"0.0", b"NaN").replace(b"0", b"NaN")
        content = b'{"step": 1, "action": ' + numbers + b"}"
        target.request("POST", f"{opened.path}/step", content=content).problem(400, ("bad_request", "bad_value"))
        _then_steps(opened, "NaN")


@CHECKS.check("vector.actions.missing", "A step without action, or with a field too many, is bad_value", _STEPPED)
def missing(target: Target) -> None:
    """The field is named."""
    with session(target, 2, seed=1) as opened:
        _refuse(opened, {"step": 1}, "no action")
        _refuse(opened, {"step": 1, "action": opened.forward(), "actoin": 1}, "the unknown field actoin", "actoin")
        _then_steps(opened, "a step with wrong fields")


@CHECKS.check(
    "vector.actions.integers", "Actions that are whole numbers may have any integer dtype", ("vector.encodings.same",)
)
def integers(target: Target) -> None:
    """Also in one byte each; all mean the same."""
    with session(target, 3, seed=1, encoding=MSGPACK) as opened, session(target, 3, seed=1) as other:
        if opened.shape.actions.sizes is None:
            skip("actions are real numbers")
        for dtype in (np.uint8, np.int32, np.int64, np.uint32):
            action: Array = opened.forward()
            wanted = other.step(action)
            expect_same(wanted, opened.step(action.astype(dtype)), f"actions of dtype {np.dtype(dtype)} play otherwise")


@CHECKS.check(
    "vector.actions.packed",
    "Packed actions whose dtype, shape or data are wrong are bad_value",
    ("vector.encodings.same",),
)
def packed(target: Target) -> None:
    """Numbers of another kind, a wrong shape, too little data, an unknown dtype, missing parts."""
    with session(target, 3, seed=1, encoding=MSGPACK) as opened:
        rows, sizes = opened.forward(), opened.shape.actions.sizes
        good = MSGPACK.pack(rows)
        wrong: list[tuple[Any, str]] = [
            (MSGPACK.pack(rows.astype(np.int32 if sizes is None else np.float32)), "numbers of another kind"),
            (MSGPACK.pack(rows.astype(np.bool_)), "packed booleans"),
            (MSGPACK.pack(rows + (np.float32(np.nan) if sizes is None else sizes)), "packed actions out of range"),
            (MSGPACK.pack(rows[..., np.newaxis]), "a dimension too many"),
            (MSGPACK.pack(np.concatenate([rows, rows[:1]])), "a packed action too many"),
            ({**good, "data": good["data"][:-1]}, "a byte too few in data"),
            ({**good, "shape": [-length for length in good["shape"]]}, "a negative shape"),
            ({**good, "dtype": "complex64"}, "an unknown dtype"),
            ({**good, "data": "zeros"}, "a string as data"),
            ({"shape": good["shape"], "data": good["data"]}, "no dtype"),
        ]
        for action, what in wrong:
            _refuse(opened, {"step": opened.next_step, "action": action}, what)
            _then_steps(opened, what)


@CHECKS.check("vector.actions.repaired", "Refused steps do not change the worlds", _STEPPED)
def repaired(target: Target) -> None:
    """A session with refused steps in between plays as one without."""
    with session(target, 3, seed=8, encoding=JSON) as opened, session(target, 3, seed=8) as other:
        for _ in range(10):
            opened.post("step", {"step": opened.next_step, "action": ["none"] * opened.shape.slots})
            action = opened.forward()
            expect_same(other.step(action), opened.step(action), "a refused step changed a world")
