"""What recurs: no drift, and nothing is made up for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.services.utils.schedule import Schedule


def test_a_schedule_that_has_not_begun_has_no_ticks() -> None:
    schedule = Schedule(10)
    assert not schedule.running
    assert schedule.wait(5.0) == math.inf
    schedule.begin(5.0)
    assert schedule.wait(5.0) == pytest.approx(0.1)
    schedule.end()
    assert schedule.wait(100.0) == math.inf


@given(
    frequency=st.floats(0.5, 1000),
    begun=st.floats(0, 1e6),
    delays=st.lists(st.floats(0, 0.9), min_size=1, max_size=60),
)
def test_a_schedule_does_not_drift_however_late_ticks_are(frequency: float, begun: float, delays: list[float]) -> None:
    schedule, now = Schedule(frequency), begun
    schedule.begin(begun)
    for delay in delays:
        now += schedule.wait(now) + delay / frequency  # each is late, but never by a whole period
        assert schedule.wait(now) == 0.0
        schedule.ticked(now)
    due = now + schedule.wait(now)
    assert due == pytest.approx(begun + (len(delays) + 1) / frequency, abs=1e-6)


@given(frequency=st.floats(1, 1000), missed=st.floats(1, 1e5))
def test_what_is_missed_is_left_out_and_the_beat_kept(frequency: float, missed: float) -> None:
    schedule = Schedule(frequency)
    schedule.begin(0.0)
    now = missed / frequency
    schedule.ticked(now)
    wait = schedule.wait(now)
    assert 0.0 < wait <= 1.0001 / frequency  # no burst: the next is still to come
    beats = (now + wait) * frequency
    assert beats == pytest.approx(round(beats), abs=1e-3)
