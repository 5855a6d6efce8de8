"""Columns of numbers over a growing x, kept in a bounded number of intervals however many rows there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rattle.analytics.updates import Curve

#: Intervals that a sketch has at most; fewer rows than that are kept as they are.
MOST_INTERVALS: Final = 1024


class Series(NamedTuple):
    """Columns over x as float64 (n,) each: their mean, least and greatest value in every interval, NaN for none."""

    mean: Mapping[str, Curve]
    low: Mapping[str, Curve]
    high: Mapping[str, Curve]
    rows: int  # that went into it

    @property
    def is_thinned(self) -> bool:
        """Whether an interval stands for several rows."""
        return self.rows > max((len(values) for values in self.mean.values()), default=0)


class _Column(NamedTuple):
    known: NDArray[np.float64]  # rows that have a value
    total: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Sketch:
    """Takes rows in any order and number, in memory that does not grow with them.

    An interval is `width` long, a power of two that doubles when there would be too many of them.
    """

    def __init__(self, x: str, most: int = MOST_INTERVALS) -> None:
        self._x = x
        self._most = most
        self._width = 1
        self._places = np.empty(0, np.int64)
        self._columns: dict[str, _Column] = {}
        self._rows = 0

    def add(self, columns: Mapping[str, Curve]) -> None:
        """Take rows: float64 (rows,) by column, one of which is x, which no row lacks; NaN elsewhere is no value."""
        x = columns[self._x]
        if not len(x):
            return
        self._rows += len(x)
        self._widen(float(x.min()), float(x.max()))
        known = len(self._places)
        places = np.concatenate([self._places, np.floor_divide(x, self._width).astype(np.int64)])
        self._places, group = np.unique(places, return_inverse=True)
        names = self._columns.keys() | columns.keys()
        nothing = np.full(len(x), np.nan)
        self._columns = {
            name: _joined(self._columns.get(name), columns.get(name, nothing), group, known, len(self._places))
            for name in names
        }
        if len(self._places) > self._most:
            self._coarsen()

    def series(self) -> Series:
        """Return what has been taken so far, in the order of x."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = {name: column.total / column.known for name, column in self._columns.items()}
        low = {name: np.where(column.known > 0, column.low, np.nan) for name, column in self._columns.items()}
        high = {name: np.where(column.known > 0, column.high, np.nan) for name, column in self._columns.items()}
        return Series(mean, low, high, self._rows)

    def _widen(self, low: float, high: float) -> None:
        """Make the intervals so wide that twice as many as are kept would do for what is to come."""
        if len(self._places):
            low = min(low, float(self._places[0] * self._width))
            high = max(high, float(self._places[-1] * self._width))
        elif self._rows <= self._most:
            return  # few rows are kept as they are
        wanted = self._width
        while self._rows > self._most and (high - low) / wanted > 2 * self._most:
            wanted *= 2
        if wanted > self._width:
            self._regroup(wanted // self._width)

    def _coarsen(self) -> None:
        while len(self._places) > self._most:
            self._regroup(2)

    def _regroup(self, factor: int) -> None:
        self._width *= factor
        self._places, group = np.unique(self._places // factor, return_inverse=True)
        size = len(self._places)
        self._columns = {name: _regrouped(column, group, size) for name, column in self._columns.items()}


def _regrouped(column: _Column, group: NDArray[np.intp], size: int) -> _Column:
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, group, column.low)
    np.maximum.at(high, group, column.high)
    known = np.bincount(group, column.known, size).astype(np.float64)
    return _Column(known, np.bincount(group, column.total, size).astype(np.float64), low, high)


def _joined(old: _Column | None, values: Curve, group: NDArray[np.intp], known: int, size: int) -> _Column:
    """Return a column with new values, which belong to the groups that follow those of the `known` intervals."""
    there = np.isfinite(values)
    first = old or _Column(np.zeros(known), np.zeros(known), np.full(known, np.inf), np.full(known, -np.inf))
    counts = np.concatenate([first.known, there.astype(np.float64)])
    totals = np.concatenate([first.total, np.where(there, values, 0.0)])
    lows = np.concatenate([first.low, np.where(there, values, np.inf)])
    highs = np.concatenate([first.high, np.where(there, values, -np.inf)])
    return _regrouped(_Column(counts, totals, lows, highs), group, size)
