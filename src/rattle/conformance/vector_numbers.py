"""Checks of step numbers: a lost answer must never step a world twice."""

from __future__ import annotations

import numpy as np

from rattle.conformance.arrays import JSON
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import expect
from rattle.conformance.raw import request_bytes, send_and_leave
from rattle.conformance.target import HttpAnswer, Target
from rattle.conformance.vector_play import CheckedSession, expect_same, pack, read_step, session

CHECKS = CheckGroup()
_STEPPED = ("vector.steps.fields",)


def _wrong_step(answer: HttpAnswer, expected: int) -> None:
    """End the check unless the answer is wrong_step and says which number comes next."""
    problem = answer.problem(409, "wrong_step")
    expect(
        problem.get("expected") == expected,
        f'the problem says "expected": {problem.get("expected")!r}, but step {expected} comes next',
        expected=f'"expected": {expected}',
        got=str(answer),
    )


def _plays_on(opened: CheckedSession, other: CheckedSession, what: str) -> None:
    """End the check unless a session still plays as one that was left alone."""
    action = opened.actions_for(opened.next_step)
    expect_same(other.step(action), opened.step(action), f"after {what}, the next step is not what it would have been")


@CHECKS.check("vector.numbers.repeated", "A step that is sent again gets the same answer and does not step", _STEPPED)
def repeated(target: Target) -> None:
    """A client repeats a request whose answer was lost."""
    with session(target, 4, seed=21) as opened, session(target, 4, seed=21) as other:
        for _ in range(3):
            action = opened.actions_for(opened.next_step)
            body = {"step": opened.next_step, "action": action}
            first = opened.step(action)
            again = opened.post("step", body).expect_status(200)
            same = read_step(again.object(), opened.shape)
            expect_same(first, same, f"step {first.step}, sent again, gets another answer")
            other.step(action)
        _plays_on(opened, other, "repeated steps")


@CHECKS.check(
    "vector.numbers.repeated_reset", "A reset that is sent again gets the same answer and does not reset", _STEPPED
)
def repeated_reset(target: Target) -> None:
    """Or an episode would be left out."""
    with session(target, 3, seed=22) as opened:
        first = opened.reset()
        again = opened.post("reset", {"step": 1}).object()
        episode = again.get("episode")
        expect(
            episode == first.episode.tolist(),
            "a reset that was sent again reset again",
            expected=first.episode.tolist(),
            got=episode,
        )


@CHECKS.check("vector.numbers.changed", "The last number with other actions is wrong_step", _STEPPED)
def changed(target: Target) -> None:
    """Only the same request is a repetition."""
    with session(target, 4, seed=23) as opened, session(target, 4, seed=23) as other:
        action = opened.forward()
        opened.step(action)
        other.step(action)
        different = opened.actions_for(1)
        if (different != action).any():
            _wrong_step(opened.post("step", {"step": 1, "action": different}), 2)
        _wrong_step(opened.post("reset", {"step": 1}), 2)
        _plays_on(opened, other, "a refused change of the last step")


@CHECKS.check(
    "vector.numbers.wrong", "A number that is neither the next nor the last is wrong_step and changes nothing", _STEPPED
)
def wrong(target: Target) -> None:
    """The problem says which number is expected."""
    with session(target, 4, seed=24) as opened, session(target, 4, seed=24) as other:
        action = opened.forward()
        for number in (0, 2, 7):
            _wrong_step(opened.post("step", {"step": number, "action": action}), 1)
        for one in (opened, other):
            one.step(action)
            one.step(one.forward())
        for number in (0, 1, 4, 2**31):
            _wrong_step(opened.post("step", {"step": number, "action": action}), 3)
            _wrong_step(opened.post("reset", {"step": number}), 3)
        _plays_on(opened, other, "wrong step numbers")


@CHECKS.check("vector.numbers.type", "A step number that is missing or not a whole number is bad_value", _STEPPED)
def number_type(target: Target) -> None:
    """The field step is named."""
    with session(target, 2, seed=25) as opened:
        action = opened.forward()
        for value in ("1", 1.5, -1, None, True):
            opened.post("step", {"step": value, "action": action}).problem(400, "bad_value", "step")
        opened.post("step", {"action": action}).problem(400, "bad_value", "step")
        opened.step(action)


@CHECKS.check("vector.numbers.refused", "A request that is refused uses up no number", _STEPPED)
def refused(target: Target) -> None:
    """The next step has the number that the refused one had."""
    with session(target, 3, seed=26) as opened, session(target, 3, seed=26) as other:
        opened.post("step", {"step": 1, "action": ["none"] * opened.shape.slots}).problem(400, "bad_value", "action")
        opened.post("reset", {"step": 1, "seed": -1}).problem(400, "bad_value", "seed")
        _plays_on(opened, other, "refused requests")


@CHECKS.check("vector.numbers.cut", "A step whose body is cut off does not step", _STEPPED)
def cut(target: Target) -> None:
    """The client then sends it again, whole."""
    with session(target, 4, seed=27) as opened, session(target, 4, seed=27) as other:
        for _ in range(3):
            body = {"step": opened.next_step, "action": opened.actions_for(opened.next_step)}
            content = JSON.encode(pack(body, JSON))
            data = request_bytes(target, "POST", f"{opened.path}/step", content, JSON.media_type)
            send_and_leave(target, data[: -len(content) // 2])
            _plays_on(opened, other, "a cut step")


@CHECKS.check("vector.numbers.lost", "A step whose answer nobody reads can be repeated", _STEPPED)
def lost(target: Target) -> None:
    """Sent whole, the connection closed at once, and sent again: it steps once."""
    with session(target, 4, seed=28) as opened, session(target, 4, seed=28) as other:
        for _ in range(3):
            body = {"step": opened.next_step, "action": opened.actions_for(opened.next_step)}
            content = JSON.encode(pack(body, JSON))
            send_and_leave(target, request_bytes(target, "POST", f"{opened.path}/step", content, JSON.media_type))
            _plays_on(opened, other, "a step whose answer was lost")


@CHECKS.check("vector.numbers.apart", "Sessions do not disturb each other", _STEPPED)
def apart(target: Target) -> None:
    """Two sessions of one seed play the same, whatever a third does in between."""
    with session(target, 3, seed=29) as one, session(target, 3, seed=29) as other, session(target, 5, seed=30) as third:
        for step in range(20):
            action = one.actions_for(step)
            played = one.step(action)
            third.step(third.actions_for(step, seed=1))
            if step % 5 == 4:
                third.reset()
            expect_same(played, other.step(action), "traffic of another session changes what a session plays")
            expect(not np.shares_memory(played.observation, other.first.observation), "arrays are apart")
