"""The table of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from rattle.services.dashboard.settings_filter import as_number, conditions
from rattle.services.dashboard.source import RunRow, RunSource
from rattle.services.dashboard.views import RunsView

#: Runs on a page.
MOST_RUNS: Final = 1000
#: The columns that are always there, and what each is headed.
COLUMNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "run_id": "run",
        "status": "status",
        "environment": "environment",
        "algorithm": "algorithm",
        "seed": "seed",
        "env_steps": "steps",
        "env_steps_per_second": "steps/s",
        "mean_return": "return",
        "best_mean_return": "best",
        "started": "started",
        "seconds": "time",
    }
)


class _Choice(NamedTuple):
    """A setting that may be a column."""

    name: str
    differs: bool  # between the runs that are shown


def context(source: RunSource, view: RunsView) -> dict[str, Any]:
    """Return what the page shows."""
    every = source.runs()
    known = [run for run in every if view.archived or not run.row.get("archived")]
    fits = conditions(view.where)
    found = _sorted([run for run in known if fits(run) and _fits(run, view)], view.sort)
    pages = max(1, -(-len(found) // MOST_RUNS))
    page = min(view.page, pages)
    return {
        "runs": found[(page - 1) * MOST_RUNS : page * MOST_RUNS],
        "count": len(found),
        "total": len(known),
        "hidden": len(every) - len(known),
        "page": page,
        "pages": pages,
        "columns": {**COLUMNS, **{name: name.rpartition(".")[2] for name in view.column}},
        "settings": _settings(found),
        "choices": {
            "status": _values(known, "status"),
            "environment": _values(known, "environment"),
            "algorithm": _values(known, "algorithm"),
            "tag": sorted({str(tag) for run in known for tag in run.tags}),
        },
        "is_live": any(run.is_live for run in known),
    }


def _fits(run: RunRow, view: RunsView) -> bool:
    wanted = {"status": view.status, "environment": view.environment, "algorithm": view.algorithm}
    return (
        all(run.row[name] == value for name, value in wanted.items() if value)
        and (not view.tag or view.tag in run.tags)
        and (not view.q or view.q.lower() in _text(run))
    )


def _text(run: RunRow) -> str:
    """Return what a search looks through."""
    return " ".join(map(str, (run.id, run.row["experiment"], *run.tags, run.row.get("note") or ""))).lower()


def _values(runs: Iterable[RunRow], column: str) -> list[str]:
    return sorted({str(run.row[column]) for run in runs if run.row[column]})


def _sorted(runs: list[RunRow], sort: str) -> list[RunRow]:
    """Return runs in the order of a column or setting, from the largest with a minus; those without it come last."""
    column, falling = sort.removeprefix("-"), sort.startswith("-")
    having = [(run.value(column), run) for run in runs]
    known = [(value, run) for value, run in having if value is not None]
    figures = [as_number(value) for value, _ in known]
    keys: Sequence[Any] = figures if None not in figures else [str(value) for value, _ in known]
    order = sorted(range(len(known)), key=lambda place: keys[place], reverse=falling)
    return [known[place][1] for place in order] + [run for value, run in having if value is None]


def _settings(runs: Sequence[RunRow]) -> list[_Choice]:
    """Return the settings of runs, those first in which they differ."""
    names = sorted({name for run in runs for name in run.settings})
    choices = [_Choice(name, len({run.settings.get(name) for run in runs}) > 1) for name in names]
    return sorted(choices, key=lambda choice: not choice.differs)
