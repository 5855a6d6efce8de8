"""Who waits, who is taken and who is dropped, in any order of events."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rattle.services.inference.serving.batching import DynamicBatcher
from rattle.wire.problems import RequestError

MAX_ROWS = 10


@dataclass(eq=False)
class Waiting:
    rows: int
    deadline: float = math.inf
    has_left: bool = False

    def is_given_up(self) -> bool:
        return self.has_left


def joiner_of(*requests: Waiting) -> DynamicBatcher[Waiting]:
    joiner: DynamicBatcher[Waiting] = DynamicBatcher(MAX_ROWS)
    for request in requests:
        joiner.add(request)
    return joiner


def test_a_lone_request_is_taken_at_once() -> None:
    request = Waiting(3)
    joiner = joiner_of(request)
    assert joiner.take() == [request]
    assert (joiner.rows, len(joiner)) == (0, 0)


def test_what_comes_while_a_pass_runs_makes_up_the_next_one_in_order() -> None:
    first, *others = [Waiting(1) for _ in range(4)]
    joiner = joiner_of(first)
    joiner.take()
    for request in others:
        joiner.add(request)
    assert joiner.take() == []
    joiner.finish()
    assert joiner.take() == others


def test_a_full_queue_refuses_and_keeps_what_waits() -> None:
    joiner = joiner_of(Waiting(6), Waiting(4))
    with pytest.raises(RequestError, match="10 rows wait and 10 may") as refused:
        joiner.add(Waiting(1))
    assert refused.value.code == "full"
    assert (joiner.rows, len(joiner)) == (10, 2)


def test_what_nobody_waits_for_makes_room() -> None:
    late, left, good = Waiting(4, deadline=1.0), Waiting(4), Waiting(2, deadline=3.0)
    joiner = joiner_of(late, left, good)
    left.has_left = True
    assert joiner.remove_useless(now=2.0) == [late, left]
    joiner.add(Waiting(8))
    assert joiner.rows == 10


def test_a_request_is_useless_at_its_deadline() -> None:
    joiner = joiner_of(Waiting(1, deadline=2.0))
    assert joiner.remove_useless(now=1.9) == []
    assert len(joiner.remove_useless(now=2.0)) == 1


def test_removing_what_is_computed_already_changes_nothing() -> None:
    request, other = Waiting(3), Waiting(2)
    joiner = joiner_of(request)
    joiner.take()
    joiner.add(other)
    joiner.remove(request)
    assert (joiner.rows, len(joiner)) == (2, 1)


class Any(RuleBasedStateMachine):
    """Every request ends once: computed, refused, cancelled or dropped; in order, and within bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.joiner: DynamicBatcher[Waiting] = DynamicBatcher(MAX_ROWS)
        self.now = 0.0
        self.waiting: list[Waiting] = []
        self.running: list[Waiting] = []

    @rule(rows=st.integers(1, MAX_ROWS), patience=st.sampled_from([0.5, 2.0, math.inf]))
    def come(self, rows: int, patience: float) -> None:
        request = Waiting(rows, self.now + patience)
        room = MAX_ROWS - sum(other.rows for other in self.waiting)
        assert self.joiner.fits(request) == (rows <= room)
        if rows <= room:
            self.joiner.add(request)
            self.waiting.append(request)
        else:
            with pytest.raises(RequestError):
                self.joiner.add(request)

    @rule(seconds=st.sampled_from([0.1, 1.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    @precondition(lambda self: self.waiting)
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(request)
        self.joiner.remove(request)

    @rule(data=st.data())
    @precondition(lambda self: self.waiting)
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.waiting)).has_left = True

    @rule()
    def begin(self) -> None:
        useless = [one for one in self.waiting if one.has_left or one.deadline <= self.now]
        assert self.joiner.remove_useless(self.now) == useless
        self.waiting = [one for one in self.waiting if one not in useless]
        taken = self.joiner.take()
        if self.running:
            assert taken == []
            return
        assert taken == self.waiting
        self.waiting, self.running = [], taken

    @rule()
    @precondition(lambda self: self.running)
    def end(self) -> None:
        self.joiner.finish()
        self.running = []

    @invariant()
    def it_counts_right(self) -> None:
        assert self.joiner.rows == sum(request.rows for request in self.waiting) <= MAX_ROWS
        assert len(self.joiner) == len(self.waiting)
        assert self.joiner.running == bool(self.running)
        assert self.joiner.running_rows == sum(request.rows for request in self.running)


TestAnyOrder = Any.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=40)
