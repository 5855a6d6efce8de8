"""The table `runs`: what is known of each run, as rows, as text and as JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec

from rattle.analytics.annotations import annotations_of
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.run_settings import read_config
from rattle.analytics.schema import INTERRUPTED, NULLABLE, RUNNING, RUNS
from rattle.analytics.stored_runs import StoredRun, StoredRuns
from rattle.text import one_line, printable

DAMAGED: Final = "damaged"  # run.json cannot be read

_PYTHON_TYPES: Final = MappingProxyType(
    {
        "String": str,
        "UInt64": int,
        "Float64": float,
        "Bool": bool,
        "DateTime64(6, 'UTC')": datetime,
        "JSON": dict[str, Any],
        "Array(String)": list[str],
        "Map(String, String)": dict[str, str],
    }
)
#: A row that may lack columns, as in a run.json of an earlier version; it has no others.
_Row: Final = msgspec.defstruct(
    "_Row",
    [(name, _PYTHON_TYPES[NULLABLE.sub(r"\1", kind)] | None, None) for name, kind in RUNS.items()],
)


def row(run: RunDirectory) -> dict[str, Any]:
    """Return a run's row with every column of `runs`, None for what is not known (yet).

    A run that says it is running while no process holds its lock was killed: its status is `interrupted`.
    """
    try:
        known: Any = msgspec.json.decode(run.run.read_bytes(), type=_Row)
    except FileNotFoundError:
        known = _Row(status=RUNNING)
    except (msgspec.DecodeError, UnicodeDecodeError, OSError):
        known = _Row(status=DAMAGED)
    found: dict[str, Any] = msgspec.structs.asdict(known)
    if found["config"] is None:  # a run.json of an earlier version
        found["config"] = read_config(run)
    if found["status"] == RUNNING and not run.in_use:
        found["status"] = INTERRUPTED
    said = msgspec.structs.asdict(annotations_of(run))
    return {**found, **said, "run_id": found["run_id"] or printable(run.path.resolve().name)}


def directory_rows(runs: Iterable[RunDirectory]) -> list[dict[str, Any]]:
    """Return the rows of runs, with every column of `runs` and the run's `directory`."""
    return [{**row(run), "directory": printable(run.path)} for run in runs]


def stored_rows(runs: StoredRuns) -> list[dict[str, Any]]:
    """Return the rows of a store's runs, with every column of `runs`."""
    return [msgspec.structs.asdict(one) for one in runs.rows(_Row)]


def stored_row(run: StoredRun) -> dict[str, Any] | None:
    """Return the row of a run in a store, as `stored_rows` has it; None where there is none."""
    rows = run.rows("runs", _Row, "run_id")
    return msgspec.structs.asdict(rows[0]) if rows else None


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows of runs as one JSON object a line."""
    return msgspec.json.Encoder().encode_lines(rows).decode()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of runs as an aligned text table with a heading; with tags and directories if any has some."""
    some = {"tags": [*map(_said, rows)], "directory": [one_line(row.get("directory", "")) for row in rows]}
    more = {name: cells for name, cells in some.items() if any(cells)}
    lines = [
        (
            "run_id",
            "environment",
            "algorithm",
            "status",
            "env_steps",
            "steps/s",
            "mean return",
            "started (UTC)",
            *more,
        ),
        *((*_shown(row), *own) for row, *own in zip(rows, *more.values(), strict=True)),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_aligned(line, widths) for line in lines)


def _shown(known: Mapping[str, Any]) -> tuple[str, ...]:
    started = known["started"]
    return (
        *(one_line(known[name] or "-") for name in ("run_id", "environment", "algorithm", "status")),
        _number(known["env_steps"], ",.0f"),
        _number(known["env_steps_per_second"], ",.0f"),
        _number(known["mean_return"], ",.2f"),
        started.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if started else "-",
    )


def _said(known: Mapping[str, Any]) -> str:
    """Return the tags of a run, and that it is archived."""
    return one_line(", ".join([*(known["tags"] or ()), *(["(archived)"] if known["archived"] else [])]))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _aligned(line: tuple[str, ...], widths: list[int]) -> str:
    """Align names to the left and the three numbers to the right."""
    cells = [
        cell.rjust(width) if 4 <= i <= 6 else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
