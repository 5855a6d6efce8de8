from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rattle.wire.round_trips import LEAST_SECONDS, MOST_SECONDS, Repeated, RoundTrips


def test_the_estimate_is_that_of_rfc_6298() -> None:
    trips = RoundTrips()
    trips.add(0.04)
    assert trips.wait() == pytest.approx(0.04 + 4 * 0.02)
    trips.add(0.08)
    variation = 0.75 * 0.02 + 0.25 * 0.04
    mean = 0.875 * 0.04 + 0.125 * 0.08
    assert trips.wait() == pytest.approx(mean + 4 * variation)


@given(st.lists(st.floats(1e-6, 10)), st.integers(1, 40))
def test_waits_double_within_their_bounds(samples: list[float], attempt: int) -> None:
    trips = RoundTrips()
    for seconds in samples:
        trips.add(seconds)
    wait = trips.wait(attempt)
    assert LEAST_SECONDS <= wait <= MOST_SECONDS
    assert trips.wait(attempt + 1) == pytest.approx(min(MOST_SECONDS, 2 * wait))


def test_a_steady_trip_is_waited_for_without_repetition() -> None:
    trips = RoundTrips()
    for _ in range(100):
        trips.add(0.02)
    assert 0.02 < trips.wait() < 0.021


def test_backing_off_lasts_until_the_next_sample() -> None:
    trips = RoundTrips()
    trips.add(0.01)
    before = trips.wait()
    trips.back_off()
    assert trips.wait() == 2 * before
    trips.add(0.01)
    assert trips.wait() <= before


def test_an_answer_is_measured_from_the_attempt_that_it_is_to() -> None:
    message = Repeated(RoundTrips())
    message.begin()
    assert message.sent(10.0) == 1
    assert message.due == pytest.approx(10.05)
    assert message.sent(10.05) == 2
    assert message.due == pytest.approx(10.15)
    assert message.answered(2, 10.06) == pytest.approx(0.01)
    assert message.due == inf
    assert message.answered(1, 10.06) == pytest.approx(0.06)
    assert message.answered(0, 10.07) is None
    message.begin()
    assert message.answered(1, 10.07) is None
