"""When the world ticks by turns, without a socket or a clock."""

from __future__ import annotations

import math

import pytest

from rattle.services.env.clocks import Turns


def test_a_turn_is_over_when_all_have_moved_or_at_its_deadline() -> None:
    turns = Turns(2.0)
    assert turns.wait(0.0, all_moved=True) == math.inf
    turns.begin(10.0)
    assert turns.wait(10.5, all_moved=False) == pytest.approx(1.5)
    assert turns.wait(10.5, all_moved=True) == 0.0
    assert turns.wait(12.0, all_moved=False) == 0.0
    turns.ticked(12.5)
    assert turns.wait(13.0, all_moved=False) == pytest.approx(1.5)
    turns.end()
    assert turns.wait(13.0, all_moved=True) == math.inf
