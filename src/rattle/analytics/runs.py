"""The table `runs`: what is known of each run, as rows, as text and as JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec

from rattle.analytics.annotations import annotations_of
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.run_settings import read_config
from rattle.analytics.schema import NULLABLE, RUNS
from rattle.analytics.stored_runs import StoredRun, StoredRuns
from rattle.text import one_line, printable

RUNNING: Final = "running"
INTERRUPTED: Final = "interrupted"  # also where the process died before it could say so
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


def json_lines(runs: Iterable[RunDirectory]) -> str:
    """Return one JSON object a line and run: the columns of `runs` and the run's `directory`."""
    return (
        msgspec.json.Encoder().encode_lines([{**row(run), "directory": printable(run.path)} for run in runs]).decode()
    )


def stored_rows(runs: StoredRuns) -> list[dict[str, Any]]:
    """Return the rows of a store's runs, with every column of `runs`."""
    return [msgspec.structs.asdict(one) for one in runs.rows(_Row)]


def stored_row(run: StoredRun) -> dict[str, Any] | None:
    """Return the row of a run in a store, as `stored_rows` has it; None where there is none."""
    rows = run.rows("runs", _Row, "run_id")
    return msgspec.structs.asdict(rows[0]) if rows else None


def stored_json_lines(rows: Iterable[dict[str, Any]]) -> str:
    """Return one JSON object a line and run of a store: the columns of `runs`."""
    return msgspec.json.Encoder().encode_lines(rows).decode()


def table(runs: Iterable[RunDirectory]) -> str:
    """Return the runs as an aligned text table with a heading, one line a run; with their tags if any has one."""
    return _table([(row(run), (one_line(run.path),)) for run in runs], ("directory",))


def stored_table(rows: Iterable[dict[str, Any]]) -> str:
    """Return the runs of a store as `table` does, without a directory."""
    return _table([(row, ()) for row in rows], ())


def _table(known: Sequence[tuple[dict[str, Any], tuple[str, ...]]], more: tuple[str, ...]) -> str:
    with_tags = any(_said(found) for found, _ in known)
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
            *(("tags",) if with_tags else ()),
            *more,
        ),
        *((*_shown(found), *((_said(found),) if with_tags else ()), *own) for found, own in known),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_aligned(line, widths) for line in lines)


def _shown(known: dict[str, Any]) -> tuple[str, ...]:
    started = known["started"]
    return (
        one_line(known["run_id"]),
        one_line(known["environment"] or "-"),
        one_line(known["algorithm"] or "-"),
        known["status"] or "-",
        _number(known["env_steps"], ",.0f"),
        _number(known["env_steps_per_second"], ",.0f"),
        _number(known["mean_return"], ",.2f"),
        started.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if started else "-",
    )


def _said(known: dict[str, Any]) -> str:
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
