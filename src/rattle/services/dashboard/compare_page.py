"""Some runs in one figure, what they differ in, and which is best."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from rattle.analytics.run_settings import labels
from rattle.analytics.updates import Curve
from rattle.errors import RattleError
from rattle.services.dashboard.charts import Chart, as_json, colour
from rattle.services.dashboard.lines import Group, curves, draw_groups, set_axes, title_of
from rattle.services.dashboard.source import DashboardError, RunRow, RunSource
from rattle.services.dashboard.views import CompareView

#: Runs in one figure.
MOST_RUNS: Final = 100
#: Of more runs, all rows are read at once rather than one by one.
_ONE_BY_ONE: Final = 10
#: A group of this name stands for all settings but the seed.
SEEDS: Final = "*"
_SEED: Final = "seed"
#: Differing settings that are columns; where there are more, they are rows.
_MOST_COLUMNS: Final = 10


class Standing(NamedTuple):
    """How far a run has come in the metric that is drawn."""

    run: RunRow
    group: str
    colour: str  # of its line
    best: float | None
    last: float | None
    steps: float | None  # at its best


def context(source: RunSource, view: CompareView) -> dict[str, Any]:
    """Return what the page shows."""
    if len(view.run) > MOST_RUNS:
        raise DashboardError(f"{len(view.run)} runs are too many for one figure: choose at most {MOST_RUNS}")
    runs = _chosen(source, dict.fromkeys(view.run))
    found, problems = _read(source, runs)
    runs = [run for run in runs if run.id in found]
    differing = _differing(runs)
    groups = _groups(runs, view.group, differing)
    chart = Chart("curves", title_of(view.y))
    set_axes(chart, view.x, log_x=view.log_x, log_y=view.log_y)
    empty = draw_groups(chart, groups, found, view.x, view.y, view.smooth)
    metrics = sorted({name for curve in found.values() for name in curve} - {"env_steps", "seconds"})
    return {
        "runs": runs,
        "others": [] if runs else source.runs()[:50],
        "problems": problems,
        "empty": empty,
        "charts": as_json([chart]),
        "chart": chart,
        "metrics": metrics,
        "metric": title_of(view.y),
        "settings": sorted({name for run in runs for name in run.settings}),
        "differing": differing,
        "by_run": len(differing) <= _MOST_COLUMNS,
        "standings": _standings(runs, groups, found, view),
    }


def _chosen(source: RunSource, run_ids: Collection[str]) -> list[RunRow]:
    known = {run.id: run for run in source.runs()} if len(run_ids) > _ONE_BY_ONE else {}
    return [known.get(run_id) or source.run(run_id) for run_id in run_ids]


def _read(source: RunSource, runs: Sequence[RunRow]) -> tuple[dict[str, dict[str, Curve]], list[str]]:
    """Return the curves of each run that can be read, and what is wrong with the others."""
    found, problems = {}, []
    for run in runs:
        try:
            found[run.id] = curves(source, run.id)
        except RattleError as error:
            problems.append(str(error))
    return found, problems


def _differing(runs: Sequence[RunRow]) -> dict[str, list[str | None]]:
    """Return the settings in which runs differ, with the value of each run."""
    names = sorted({name for run in runs for name in run.settings})
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: own for name, own in values.items() if len(set(own)) > 1}


def _groups(runs: Sequence[RunRow], by: Sequence[str], differing: Mapping[str, object]) -> list[Group]:
    """Return a line for each run, or for the runs that agree in the settings `by`."""
    if not by:
        return [Group(run.id, [run.id]) for run in runs]
    keys = [name for name in differing if name not in (_SEED, "name")] if SEEDS in by else list(by)
    members: dict[str, list[str]] = {}
    for run, label in zip(runs, labels([run.settings for run in runs], keys), strict=True):
        members.setdefault(label or "all", []).append(run.id)
    return [Group(f"{name} ({len(ids)} run{'s' * (len(ids) != 1)})", ids) for name, ids in members.items()]


def _standings(
    runs: Sequence[RunRow], groups: Sequence[Group], found: Mapping[str, Mapping[str, Curve]], view: CompareView
) -> list[Standing]:
    """Return the runs, the best first; those without the metric come last."""
    line_of = {run_id: number for number, group in enumerate(groups) for run_id in group.run_ids}
    standings = [_standing(run, groups, line_of[run.id], found[run.id], view) for run in runs]
    sign = -1 if view.best == "highest" else 1
    return sorted(standings, key=lambda one: (one.best is None, sign * (one.best or 0.0)))


def _standing(
    run: RunRow, groups: Sequence[Group], number: int, curve: Mapping[str, Curve], view: CompareView
) -> Standing:
    name = groups[number].name
    values = curve.get(view.y, np.empty(0))
    known = np.isfinite(values)
    if not known.any():
        return Standing(run, name, colour(number), None, None, None)
    values, steps = values[known], curve["env_steps"][known]
    place = int(np.argmax(values) if view.best == "highest" else np.argmin(values))
    return Standing(run, name, colour(number), float(values[place]), float(values[-1]), float(steps[place]))
