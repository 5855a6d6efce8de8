"""Ticks a second over the last seconds."""

from __future__ import annotations

import pytest

from rattle.services.sync.rate import Rate


def test_before_anything_has_happened_there_is_no_rate() -> None:
    rate = Rate()
    assert rate.per_second(0, 10.0) == 0.0
    rate.note(5, 10.0)
    assert rate.per_second(5, 10.0) == 0.0


def test_the_rate_is_that_of_the_last_seconds() -> None:
    rate, tick = Rate(), 0
    for step in range(2000):  # 100 a second for ten seconds, then 200
        tick += 1 if step < 1000 else 2
        rate.note(tick, step / 100)
        if step > 10:
            assert rate.per_second(tick, step / 100) == pytest.approx(100 if step < 1000 else 150, abs=51)
    assert rate.per_second(tick, 19.99) == pytest.approx(200)


def test_it_falls_to_nothing_when_nothing_goes_on() -> None:
    rate = Rate()
    for step in range(1000):
        rate.note(step, step / 100)
    lately = [rate.per_second(999, 9.99 + seconds) for seconds in (0.0, 1.0, 3.0, 20.0)]
    assert lately == sorted(lately, reverse=True)
    assert lately[-1] == 0.0


def test_a_pause_is_forgotten_when_it_is_over() -> None:
    rate = Rate()
    rate.note(1, 0.0)
    for step in range(100):
        rate.note(100 + step, 3600 + step / 100)
    assert rate.per_second(199, 3600.99) == pytest.approx(100)
