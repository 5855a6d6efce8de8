"""The table `logs` of a run directory, as one process writes it: JSON lines in logs/WRITER.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.table_parts import tail_file
from rattle.analytics.table_writer import TableWriter
from rattle.events import LogEntry, context
from rattle.telemetry.pipe import pipe

#: Those that are open in this process, by folder: two files would hold each event twice.
_open: Final[dict[Path, RunLog]] = {}


class RunLog:
    """Writes the events of one run; those of other runs of this process have other directories."""

    is_shared = False

    def __init__(self, folder: Path, writer: str, run_id: str) -> None:
        self.place = str(tail_file(folder, writer))
        self._table = TableWriter(folder, writer)
        self._run_id = run_id

    def write(self, entries: Sequence[tuple[LogEntry, bool]]) -> None:
        """Write the rows of the run's events; raises AnalyticsError, and drops them, where the disk takes none."""
        try:
            self._table.write([entry.row() for entry, _ in entries if entry.run_id == self._run_id])
            self._table.flush()
            self._table.close_part()
        except AnalyticsError:
            self._table.forget()
            raise

    def settle(self) -> None:
        """Do nothing: the system has all rows."""

    def close(self) -> None:
        """Bring the rows to the disk and close the file, as far as it takes them."""
        try:
            self._table.sync()
        finally:
            self._table.close()


def open_run_log(directory: RunDirectory, writer: str, run_id: str, experiment: str) -> Callable[[], None]:
    """Have the events of a run written to its table `logs`, and return what ends that.

    Events of this process that are of no run in particular are this run's, if they are of none yet. Raises
    AnalyticsError where the table cannot be written to.
    """
    folder = directory.table("logs").resolve()
    if folder in _open:
        return lambda: None
    log = RunLog(folder, writer, run_id)
    _open[folder] = log
    was = context.run_id, context.experiment
    if not context.run_id:
        context.run_id, context.experiment = run_id, experiment
    pipe.add(log)

    def close() -> None:
        _open.pop(folder, None)
        pipe.remove(log)
        if context.run_id == run_id:
            context.run_id, context.experiment = was

    return close
