"""Learning curves as arrays: the mean of several, and a curve made smooth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from rattle.analytics.updates import Curve

#: Places at which the curves of a group are averaged.
GROUP_POINTS: Final = 400


class Averaged(NamedTuple):
    """What several curves come to: float64 (points,) by column, NaN where too few are known."""

    mean: Mapping[str, Curve]
    deviation: Mapping[str, Curve]  # one standard deviation


def averaged(members: Sequence[Mapping[str, Curve]], x: str, points: int = GROUP_POINTS) -> Averaged:
    """Return the mean of several runs' curves, at so many points, where at least half of them are known.

    Further on it would follow which runs have ended, not how they learn. `members` has at least one curve, and each of
    them at least one point.
    """
    ends = [float(curve[x][-1]) for curve in members]
    at = np.linspace(min(float(curve[x][0]) for curve in members), max(ends), points)
    mean: dict[str, Curve] = {x: at}
    deviation: dict[str, Curve] = {}
    for column in sorted(set().union(*members) - {x}):
        nothing = np.full(0, np.nan)
        values = np.array([_resampled(curve[x], curve.get(column, nothing), at) for curve in members])
        known = np.isfinite(values)
        count = known.sum(axis=0)
        count = np.where(2 * count >= len(members), count, 0)  # no mean of nothing: NaN
        with np.errstate(invalid="ignore", divide="ignore"):
            mean[column] = np.where(known, values, 0.0).sum(axis=0) / count
            squares = np.where(known, (values - mean[column]) ** 2, 0.0).sum(axis=0)
            deviation[column] = np.sqrt(squares / count)
    return Averaged(mean, deviation)


def _resampled(x: Curve, values: Curve, at: Curve) -> Curve:
    """Return a curve at other places: linear in between, NaN outside of what is known."""
    known = np.isfinite(values)
    if not known.any():  # or the run lacks the column
        return np.full_like(at, np.nan)
    return np.interp(at, x[known], values[known], left=np.nan, right=np.nan)


def smoothed(values: Curve, span: float) -> Curve:
    """Return the exponential moving average with a centre of mass of about `span` / 2 entries; NaN entries pass."""
    weight, average, total = 2 / (span + 1), 0.0, 0.0
    result = np.full_like(values, np.nan)
    for i, value in enumerate(values):
        if np.isfinite(value):
            average += weight * (value - average)
            total += weight * (1 - total)
            result[i] = average / total  # without a pull towards 0 at the beginning
    return result
