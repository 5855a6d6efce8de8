"""What a training run writes besides checkpoints: its tables, and its row of `runs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from rattle import __version__
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.steps import StepsWriter
from rattle.analytics.writer import TableWriter, check_cut, last_line, side_by_side, table_file, write_atomically
from rattle.events import About, Event, emit
from rattle.runs.errors import RunError
from rattle.runs.progress import Summary
from rattle.settings.experiment import ExperimentSettings
from rattle.telemetry.run_log import open_run_log

WRITER = "train"

#: Tables of JSON lines whose rows a resume makes again from its checkpoint on.
REPLAYED = ("updates", "episodes", "evaluations")


class _Timed(msgspec.Struct):
    seconds: float = 0.0


class RunTables:
    """The append-only tables of one run, stored together and cut back together."""

    def __init__(self, directory: RunDirectory, run_id: str, experiment: str) -> None:
        self._directory = directory
        self._run_id = run_id
        self._experiment = experiment
        self._lines = {name: TableWriter(directory.table(name), WRITER) for name in REPLAYED}
        self._close_log = open_run_log(directory, WRITER, run_id, experiment)
        self._about = About(run_id, experiment)
        self.steps = StepsWriter(directory.table("steps"), WRITER)

    def common(self) -> dict[str, Any]:
        """Return the columns that all rows written now share."""
        return {"time": now(), "run_id": self._run_id}

    def update(self, row: Mapping[str, Any]) -> None:
        """Append a row of `updates`."""
        self._lines["updates"].write([row])

    def episodes(self, rows: Any) -> None:
        """Append rows of `episodes`."""
        self._lines["episodes"].write(rows)

    def evaluation(self, row: Mapping[str, Any]) -> None:
        """Append a row of `evaluations`."""
        self._lines["evaluations"].write([row])

    def log(self, event: Event, error: BaseException | None = None, *, quiet: bool = False) -> None:
        """Tell an event of this run, which its table `logs` has too; with `quiet`, somebody else shows it to people."""
        emit(event, error=error, about=About(self._run_id, self._experiment, quiet=True) if quiet else self._about)

    def flush(self) -> tuple[dict[str, int], Callable[[], None]]:
        """Return how far the tables reach, for `cut_back`, and what brings them to the disk so far.

        Another thread may call that while this one writes on.
        """
        steps, store_steps = self.steps.begin_flush()
        reach = {name: table.flush() for name, table in self._lines.items()}
        works = (*(table.sync for table in self._lines.values()), store_steps)
        return {**reach, "steps": steps}, lambda: side_by_side(works)

    def show(self) -> None:
        """Hand the rows so far to the operating system, so that queries see them."""
        for table in self._lines.values():
            table.flush()

    def cut_back(self, reach: Mapping[str, int], *, keep: bool = False) -> None:
        """Drop what was written after `flush` returned `reach`: the run plays it again. Logs stay: they happened.

        With `keep` it is put aside, in files whose names end in `.cut`. Raises AnalyticsError, before any file is
        touched, when a table does not reach so far, or `reach` lies within a row.
        """
        check_reach(self._directory, reach)
        for name in REPLAYED:
            self._lines[name].truncate(reach.get(name, 0), keep=keep)
        self.steps.discard_after(reach["steps"], self._run_id, keep=keep)

    def seconds_trained(self) -> float:
        """Return the seconds of training up to the last row of `updates`; 0 where there is none that says so."""
        try:
            last = last_line(table_file(self._directory.table("updates"), WRITER))
            return float(msgspec.json.decode(last or b"{}", type=_Timed).seconds)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return 0.0

    def close(self) -> None:
        """Flush and close the files."""
        self._close_log()
        for table in self._lines.values():
            table.close()


def check_reach(directory: RunDirectory, reach: Mapping[str, int]) -> None:
    """Raise AnalyticsError when a table of a run has not the rows that it had when `RunTables.flush` gave `reach`."""
    for name in REPLAYED:
        check_cut(table_file(directory.table(name), WRITER), reach.get(name, 0))


#: How far the tables reach before anything has been written.
NOTHING = {**dict.fromkeys(REPLAYED, 0), "steps": 0}


_OF_THE_POLICY = ("mean_return", "mean_episode_length", "policy_sha256", "best_mean_return", "best_policy_version")


def run_row(settings: ExperimentSettings, summary: Summary, started: str, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's row of the table `runs`; `origin` are its columns that say where it began."""
    shared = ("run_id", "status", "seconds", "env_steps", "updates", "episodes", "env_steps_per_second")
    content = summary.as_dict()
    return {
        **{name: content[name] for name in (*shared, *_OF_THE_POLICY)},
        "experiment": settings.experiment,
        "environment": settings.env.id,
        "algorithm": settings.algorithm.id,
        "seed": settings.seed,
        "started": started,
        "ended": None if summary.status == "running" else now(),
        "rattle_version": __version__,
        "config": settings.model_dump(mode="json"),
        **origin,
    }


def write_run_row(directory: RunDirectory, row: Mapping[str, Any]) -> None:
    """Replace the run's row of `runs`."""
    write_atomically(directory.run, dump_run_row(row))


def dump_run_row(row: Mapping[str, Any]) -> bytes:
    """Return the content of a run's file of `runs`."""
    return msgspec.json.encode(row) + b"\n"


def read_run_row(directory: RunDirectory) -> dict[str, Any]:
    """Return the run's row of `runs`, as it was last written; raises RunError when it cannot be read."""
    try:
        row: dict[str, Any] = msgspec.json.decode(directory.run.read_bytes(), type=dict)
        return {**row, "run_id": str(row["run_id"]), "updates": int(row["updates"])}
    except OSError as error:
        if not directory.path.exists():
            raise RunError(f"the run directory {directory.path} has been deleted or moved") from None
        raise RunError(f"cannot read {directory.run}: {error.strerror}") from None
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        raise RunError(f"{directory.run} is damaged") from None


def now() -> str:
    """Return the time in UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
