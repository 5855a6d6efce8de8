"""What a training run writes in addition to checkpoints: its tables, and its row of `runs`."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import msgspec

from rattle import __version__
from rattle.analytics.directory_sink import WRITER, DirectorySink
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.steps import as_episode
from rattle.analytics.writer import side_by_side, write_atomically
from rattle.events import About, Event, emit
from rattle.runs.errors import RunError
from rattle.runs.progress import Summary
from rattle.settings.experiment import ExperimentSettings
from rattle.telemetry.broker_sink import BrokerSink
from rattle.telemetry.run_log import open_run_log
from rattle.telemetry.sinks import UPDATE, Mark, TableSink


class RunTables:
    """The tables of one run: what its rows share, and where they go."""

    def __init__(self, directory: RunDirectory, run_id: str, settings: ExperimentSettings) -> None:
        """Rows go to the run's directory and, where the settings or the environment name one, to a broker."""
        self._run_id = run_id
        self._experiment = settings.experiment
        self._about = About(run_id, settings.experiment)
        self._directory = DirectorySink(directory, run_id)
        self._close_log = open_run_log(directory, WRITER, run_id, settings.experiment)
        self._others = _other_sinks(directory, run_id, settings)
        self._sinks: tuple[TableSink, ...] = (self._directory, *self._others)
        #: The number of the newest update: rows are made by it, or seen when it was made.
        self.newest_update = 0

    def common(self) -> dict[str, Any]:
        """Return the columns that all rows written now share."""
        return {"time": now(), "run_id": self._run_id}

    def append(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows of a table."""
        for sink in self._sinks:
            sink.append(table, rows, self.newest_update)

    def record(self, columns: Mapping[str, Any]) -> None:
        """Append an agent's recorded episode, as `as_episode` takes it."""
        self.append("steps", [as_episode(columns)])

    def log(self, event: Event, error: BaseException | None = None, *, quiet: bool = False) -> None:
        """Tell an event of this run, which its table `logs` has too; with `quiet`, somebody else shows it to people."""
        emit(event, error=error, about=About(self._run_id, self._experiment, quiet=True) if quiet else self._about)

    def publish_run(self, row: Mapping[str, Any]) -> None:
        """Tell others than the directory, which has it in a file, of the run's row of `runs`."""
        for sink in self._others:
            sink.append("runs", [row])

    def flush(self) -> tuple[dict[str, int], Callable[[], None]]:
        """Return how far the tables reach, for `cut_back`, and what makes that durable.

        Another thread may call that while this one writes on.
        """
        marks, works = zip(*(sink.mark() for sink in self._sinks), strict=True)
        return {**ChainMap(*marks), UPDATE: self.newest_update}, lambda: side_by_side(works)

    def show(self) -> None:
        """Let readers see the rows so far."""
        for sink in self._sinks:
            sink.show()

    def cut_back(self, mark: Mark, *, keep: bool = False) -> None:
        """Drop what was appended after `flush` returned the mark: the run plays it again. Logs stay: they happened.

        Raises AnalyticsError as `DirectorySink.cut_back` does.
        """
        for sink in self._sinks:
            sink.cut_back(mark, keep=keep)
        self.newest_update = mark[UPDATE]

    def seconds_trained(self) -> float:
        """Return the seconds of training up to the last row of `updates`; 0 where there is none that says so."""
        return self._directory.seconds_trained()

    def close(self) -> None:
        """Bring out what is left; raises AnalyticsError when the directory does not take it."""
        with ExitStack() as stack:
            stack.callback(self._close_log)
            for sink in self._sinks:
                stack.callback(sink.close)


def _other_sinks(directory: RunDirectory, run_id: str, settings: ExperimentSettings) -> tuple[TableSink, ...]:
    sink = open_broker_sink(directory, run_id, settings, WRITER)
    return () if sink is None else (sink,)


def open_broker_sink(
    directory: RunDirectory, run_id: str, settings: ExperimentSettings, writer: str
) -> BrokerSink | None:
    """Return what publishes rows of a run where settings or environment name a broker; raises a RattleError."""
    broker = settings.telemetry.find_broker()
    if broker is None:
        return None
    return BrokerSink(
        broker,
        directory.outbox / writer,
        settings.telemetry.outbox_bytes,
        service=writer,
        experiment=settings.experiment,
        run_id=run_id,
    )


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
