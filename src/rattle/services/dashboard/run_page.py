"""One run: its curves, its services, what has happened, and its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import numpy as np

from rattle.analytics.sketch import Series
from rattle.analytics.updates import Curve
from rattle.errors import RattleError
from rattle.services.dashboard.charts import Chart, as_json
from rattle.services.dashboard.lines import TITLES, columns_of, constant, set_axes, title_of
from rattle.services.dashboard.source import Events, RunSource
from rattle.services.dashboard.views import RunView

Result = TypeVar("Result")

_NOTHING: Final = Series({}, {}, {}, 0)
#: Columns of `runs` that the page shows elsewhere.
_SHOWN: Final = frozenset({"run_id", "status", "config", "tags", "note", "archived"})


def context(source: RunSource, view: RunView) -> dict[str, Any]:
    """Return what the page shows. A table that cannot be read is shown as a problem; all others are shown as usual."""
    run = source.run(view.run)
    problems: list[str] = []

    def tried(read: Callable[[str], Result], otherwise: Result) -> Result:
        try:
            return read(run.id)
        except RattleError as error:
            problems.append(str(error))
            return otherwise

    updates = tried(source.updates, _NOTHING)
    episodes = tried(source.episodes, _NOTHING)
    evaluations: Mapping[str, Curve] = tried(source.evaluations, dict[str, Curve]())
    events = tried(source.events, Events())
    charts = _charts(view, updates, episodes, evaluations)
    load = _load_charts(events)
    return {
        "run": run,
        "is_live": run.is_live,
        "problems": problems,
        "charts": as_json([*charts, *load]),
        "learning": charts,
        "load": load,
        "constants": _constants(updates, episodes),
        "events": [one for one in events.newest if view.level == "all" or one.is_trouble],
        "services": events.services,
        "tiles": _tiles(run.row, updates),
        "facts": {name: value for name, value in run.row.items() if name not in _SHOWN and value not in (None, "", {})},
        "thinned": updates.is_thinned or episodes.is_thinned,
    }


def _tiles(row: Mapping[str, Any], updates: Series) -> dict[str, Any]:
    """Return the figures at the top: of the newest update, where a run in progress has a newer one than its row."""

    def newest(column: str, otherwise: str | None = None) -> Any:
        values = updates.high.get(column, np.empty(0))
        known = values[np.isfinite(values)]
        return float(known[-1]) if len(known) else row.get(otherwise or column)

    return {
        "mean return": row["mean_return"] if row["status"] != "running" else newest("mean_return"),
        "best mean return": row["best_mean_return"],
        "steps": newest("env_steps"),
        "updates": newest("policy_version", "updates"),
        "episodes": newest("episodes"),
        "steps/s": newest("env_steps_per_second"),
        "policy age": newest("policy_age", ""),
        "training": newest("seconds"),
    }


def _charts(view: RunView, updates: Series, episodes: Series, evaluations: Mapping[str, Curve]) -> list[Chart]:
    """Return a chart for each column that changes."""
    charts = [_returns(view, updates, episodes, evaluations)] if updates.rows or episodes.rows else []
    for column in columns_of(updates):
        if column == "mean_return" or constant(updates, column) is not None:
            continue
        chart, x = Chart(column, title_of(column)), updates.mean[view.x]
        smooth = 0 if column in ("learning_rate", "policy_age") else view.smooth
        chart.line(column.replace("_", " "), x, updates.mean[column], smooth=smooth)
        if column == "policy_age" and "max_policy_age" in updates.high:
            chart.line("largest", x, updates.high["max_policy_age"], 1)
        charts.append(chart)
    for column in columns_of(episodes):
        if column not in ("return", "length") and constant(episodes, column) is None:
            chart = Chart(f"episodes-{column}", TITLES.get(column, f"Mean {column.replace('_', ' ')} of episodes"))
            chart.line(column, _x_of(view.x, episodes, updates), episodes.mean[column], 2, smooth=view.smooth)
            charts.append(chart)
    for chart in charts:
        set_axes(chart, view.x, log_x=view.log_x, log_y=view.log_y)
    return charts


def _constants(updates: Series, episodes: Series) -> dict[str, float]:
    """Return what has no chart because it never changes."""
    found: dict[str, float] = {}
    for series in (updates, episodes):
        values = {column: constant(series, column) for column in columns_of(series)}
        found |= {column.replace("_", " "): value for column, value in values.items() if value is not None}
    return found


def _returns(view: RunView, updates: Series, episodes: Series, evaluations: Mapping[str, Curve]) -> Chart:
    """Return the chart of returns: of single episodes, of the last 100 of them, and of evaluations."""
    chart = Chart("return", "Return")
    if episodes.rows:
        x = _x_of(view.x, episodes, updates)
        chart.band("episodes, least to greatest", x, episodes.low["return"], episodes.high["return"], 8)
        chart.line("episodes", x, episodes.mean["return"], 8, line={"width": 1, "color": "rgba(141,153,171,.8)"})
    if updates.rows:
        chart.line("mean of the last 100", updates.mean[view.x], updates.mean["mean_return"], 0, smooth=view.smooth)
    if len(evaluations.get("env_steps", ())):
        chart.dots("evaluations", evaluations[view.x], evaluations["mean_return"], 1, evaluations["std_return"])
    chart.layout["showlegend"] = True
    return chart


def _x_of(x: str, episodes: Series, updates: Series) -> Curve:
    """Return where episodes stand on an axis: they know their steps, and updates know how long these took."""
    steps = episodes.mean["env_steps"]
    if x == "env_steps" or not updates.rows:
        return steps
    return np.interp(steps, updates.mean["env_steps"], updates.mean[x])


def _load_charts(events: Events) -> list[Chart]:
    """Return a chart for each kind of load, with a line for each service or host."""
    charts: dict[str, Chart] = {}
    for number, (service, series) in enumerate(events.load.items()):
        for column in sorted(series.mean.keys() - {"time"}):
            chart = charts.setdefault(column, Chart(f"load-{column}", _load_title(column)))
            chart.line(service, series.mean["time"] * 1000, series.mean[column], number)
            chart.axis("x", type="date")
    return [charts[column] for column in sorted(charts)]


def _load_title(column: str) -> str:
    """Return what a chart is headed: a field of the event, with its unit in brackets."""
    name, _, unit = column.rpartition("_")
    units = {"percent": "%", "bytes": "bytes"}
    title = f"{name} ({units[unit]})" if unit in units else column
    words = title.replace("_", " ").replace("cpu", "CPU").replace("gpu", "GPU").replace("process ", "process: ")
    return words[0].upper() + words[1:]
