"""A sketch keeps what rows come to, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from rattle.analytics.sketch import Sketch


def test_few_rows_stay_as_they_are() -> None:
    sketch = Sketch("x", most=10)
    sketch.add({"x": np.array([30.0, 10.0]), "y": np.array([3.0, 1.0])})
    sketch.add({"x": np.array([1e9]), "y": np.array([7.0])})
    series = sketch.series()
    assert series.mean["x"].tolist() == [10, 30, 1e9]
    assert series.mean["y"].tolist() == series.low["y"].tolist() == series.high["y"].tolist() == [1, 3, 7]
    assert (series.rows, series.is_thinned) == (3, False)


@pytest.mark.parametrize("at_a_time", [1, 7, 1000])
def test_many_rows_become_intervals_however_they_come(at_a_time: int) -> None:
    generator = np.random.default_rng(0)
    x, y = np.sort(generator.integers(0, 10**6, 1000)).astype(float), generator.normal(size=1000)
    sketch = Sketch("x", most=50)
    for begin in range(0, 1000, at_a_time):
        sketch.add({"x": x[begin : begin + at_a_time], "y": y[begin : begin + at_a_time]})
    series = sketch.series()
    width = 2 ** int(np.ceil(np.log2(10**6 / 50)))  # the least power of two of which 50 do
    places = x // width
    assert series.mean["y"] == pytest.approx([y[places == place].mean() for place in np.unique(places)])
    assert series.low["y"].tolist() == [y[places == place].min() for place in np.unique(places)]
    assert series.high["y"].tolist() == [y[places == place].max() for place in np.unique(places)]
    assert series.is_thinned
    assert series.rows == 1000


def test_memory_does_not_grow_with_rows() -> None:
    sketch = Sketch("x", most=64)
    for begin in range(0, 10**6, 10**4):
        sketch.add({"x": np.arange(begin, begin + 10.0**4), "y": np.ones(10**4)})
        assert len(sketch.series().mean["x"]) <= 64
    assert sketch.series().rows == 10**6


def test_columns_may_come_late_and_lack_values() -> None:
    sketch = Sketch("x")
    sketch.add({"x": np.array([1.0, 2.0]), "y": np.array([np.nan, 5.0])})
    sketch.add({"x": np.array([3.0]), "z": np.array([9.0])})
    mean = sketch.series().mean
    np.testing.assert_equal(mean["y"], [np.nan, 5, np.nan])
    np.testing.assert_equal(mean["z"], [np.nan, np.nan, 9])
    np.testing.assert_equal(sketch.series().low["z"], [np.nan, np.nan, 9])


def test_nothing_comes_to_nothing() -> None:
    sketch = Sketch("x")
    sketch.add({"x": np.empty(0)})
    assert sketch.series().rows == 0
