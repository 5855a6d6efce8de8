"""The curves of runs as charts: one run's, or the mean of each group in a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from rattle.analytics.curves import averaged
from rattle.analytics.sketch import Series
from rattle.analytics.updates import Curve
from rattle.services.dashboard.charts import Chart
from rattle.services.dashboard.source import RunSource

X_TITLES: Final = {"env_steps": "environment steps", "seconds": "seconds of training"}
#: What columns are headed; others are headed by their names.
TITLES: Final = {
    "mean_return": "Mean return of the last 100 episodes",
    "mean_episode_length": "Mean episode length (ticks)",
    "env_steps_per_second": "Environment steps per second",
    "policy_loss": "Policy loss",
    "value_loss": "Value loss",
    "entropy": "Entropy (nats an action)",
    "gradient_norm": "Gradient norm before clipping",
    "learning_rate": "Learning rate",
    "policy_age": "Policy age (updates): mean and largest",
    "evaluation_return": "Mean return of evaluations",
    "truncated": "Share of episodes that were truncated",
}
#: Columns that are an axis, or part of another chart.
NOT_DRAWN: Final = frozenset({"env_steps", "seconds", "policy_version", "max_policy_age", "episodes"})


class Group(NamedTuple):
    """A line: what it is called, and the runs that it is the mean of."""

    name: str
    run_ids: Sequence[str]


def title_of(column: str) -> str:
    """Return what a chart of a column is headed."""
    return TITLES.get(column) or column.replace("_", " ").capitalize()


def columns_of(series: Series) -> list[str]:
    """Return the columns that have values and are no axis, the usual ones first."""
    known = [name for name, values in series.mean.items() if np.isfinite(values).any() and name not in NOT_DRAWN]
    order = {name: place for place, name in enumerate(TITLES)}
    return sorted(known, key=lambda name: (order.get(name, len(order)), name))


def constant(series: Series, column: str) -> float | None:
    """Return the value of a column that never changes; None where it does."""
    low, high = np.nanmin(series.low[column]), np.nanmax(series.high[column])
    return float(low) if low == high else None


def curves(source: RunSource, run_id: str) -> dict[str, Curve]:
    """Return a run's curves by column, evaluations among them, at the updates."""
    mean = dict(source.updates(run_id).mean)
    evaluations = source.evaluations(run_id)
    if len(evaluations["env_steps"]) and len(mean.get("env_steps", ())):
        mean["evaluation_return"] = np.full_like(mean["env_steps"], np.nan)
        places = np.searchsorted(mean["env_steps"], evaluations["env_steps"]).clip(max=len(mean["env_steps"]) - 1)
        mean["evaluation_return"][places] = evaluations["mean_return"]
    return mean


def set_axes(chart: Chart, x: str, *, log_x: bool, log_y: bool) -> None:
    """Name the axis that all charts share, and set which are logarithmic."""
    chart.axis("x", title={"text": X_TITLES[x]}, type="log" if log_x else "linear")
    chart.axis("y", type="log" if log_y else "linear")


def draw_groups(
    chart: Chart, groups: Sequence[Group], found: Mapping[str, Mapping[str, Curve]], x: str, y: str, smooth: float
) -> list[str]:
    """Draw a line for each group, and return the names of those that have nothing to draw."""
    empty = []
    for number, group in enumerate(groups):
        members = [found[run_id] for run_id in group.run_ids]
        members = [curve for curve in members if len(curve.get(x, ())) and np.isfinite(curve.get(y, np.nan)).any()]
        if not members:
            empty.append(group.name)
        elif len(members) == 1:
            chart.line(group.name, members[0][x], members[0][y], number, smooth=smooth)
        else:
            mean, deviation = averaged([{x: curve[x], y: curve[y]} for curve in members], x)
            with np.errstate(invalid="ignore"):  # NaN where nothing is known
                low, high = mean[y] - deviation[y], mean[y] + deviation[y]
            chart.band(group.name, mean[x], low, high, number)
            chart.line(group.name, mean[x], mean[y], number, smooth=smooth)
    return empty
