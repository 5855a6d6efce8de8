"""Numbers and times are written so that they can be read at a glance."""

from __future__ import annotations

import math

import pytest

from rattle.services.dashboard.charts import numbers
from rattle.services.dashboard.shown import NOTHING, cell, duration, exact, short


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NOTHING),
        (math.nan, NOTHING),
        (0, "0"),
        (7, "7"),
        (-0.43219, "-0.4322"),
        (9000, "9,000"),
        (61_021.4, "61.02 k"),
        (3_456_000, "3.456 M"),
        (2.5e9, "2.5 G"),
        (-25_000, "-25 k"),
    ],
)
def test_numbers_take_four_places(value: float | None, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, NOTHING), (0, "0 s"), (59.6, "1 min"), (3725, "1 h 2 min"), (90_000, "1 d 1 h")],
)
def test_durations_have_two_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_other_values_are_one_line() -> None:
    assert exact(0.1 + 0.2) == "0.3"
    assert exact("a\nb") == "a b"
    assert cell({"x": [1, None]}) == '{"x":[1,null]}'
    assert len(cell("x" * 10_000)) == 300


def test_charts_have_seven_digits_and_times_all_that_tell_them_apart() -> None:
    assert numbers([0.123456789, -1234.56789, 0, math.nan, math.inf]) == [0.1234568, -1234.568, 0, None, None]
    seconds = [1796095000.0, 1796095005.25, 1796095010.5]
    assert numbers([1000 * second for second in seconds]) == [1000 * second for second in seconds]
    assert numbers([1796095005250.0]) == [1796095005250.0]
    assert numbers([]) == []
