"""The tables of a run in its directory, stored together and cut back together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.steps import StepsWriter
from rattle.analytics.table_writer import TableWriter, check_cut, last_row, pack_parts
from rattle.analytics.writer import side_by_side

WRITER: Final = "train"
#: Tables of JSON lines whose rows a resume makes again from its checkpoint on.
REPLAYED: Final = ("updates", "episodes", "evaluations")
#: How far the tables reach before anything has been written.
NOTHING: Final = {**dict.fromkeys(REPLAYED, 0), "steps": 0}


class _Timed(msgspec.Struct):
    seconds: float = 0.0


class DirectorySink:
    """The append-only tables of one run, a `TableSink`; its methods raise AnalyticsError.

    It leaves out rows of other tables: `runs` is a file that is replaced, `logs` come from all of a process, and lives
    are not told apart here.
    """

    def __init__(self, directory: RunDirectory, run_id: str) -> None:
        self._directory = directory
        self._run_id = run_id
        self._lines = {name: TableWriter(directory.table(name), WRITER) for name in REPLAYED}
        self._steps = StepsWriter(directory.table("steps"), WRITER)

    def append(self, table: str, rows: Sequence[Mapping[str, Any]], made_by: int = 0) -> None:
        """Take rows of a table; the files' lengths say which belong to an update."""
        if table == "steps":
            for episode in rows:
                self._steps.append(episode)
        elif table in self._lines:
            self._lines[table].write(rows)

    def mark(self) -> tuple[dict[str, int], Callable[[], None]]:
        """Return how far the tables reach, and what brings them to the disk so far; another thread may call that."""
        steps, store_steps = self._steps.begin_flush()
        reach = {name: table.flush() for name, table in self._lines.items()}
        for table in self._lines.values():
            table.close_part()
        works = (*(table.sync for table in self._lines.values()), store_steps)
        return {**reach, "steps": steps}, lambda: side_by_side(works)

    def cut_back(self, mark: Mapping[str, int], *, keep: bool = False) -> None:
        """Drop what was written after a mark: the run plays it again. Logs stay: they happened.

        With `keep` it is put aside, in files whose names end in `.cut`. Raises AnalyticsError, before any file is
        touched, when a table does not reach so far, or the mark lies within a row.
        """
        check_reach(self._directory, mark)
        for name in REPLAYED:
            self._lines[name].truncate(mark.get(name, 0), keep=keep)
        self._steps.discard_after(mark["steps"], self._run_id, keep=keep)

    def show(self) -> None:
        """Hand the rows so far to the operating system, so that queries see them."""
        for table in self._lines.values():
            table.flush()

    def seconds_trained(self) -> float:
        """Return the seconds of training up to the last row of `updates`; 0 where there is none that says so."""
        try:
            last = last_row(self._directory.table("updates"), WRITER)
            return float(msgspec.json.decode(last or b"{}", type=_Timed).seconds)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return 0.0

    def close(self) -> None:
        """Flush and close the files."""
        for table in self._lines.values():
            table.close()


def check_reach(directory: RunDirectory, mark: Mapping[str, int]) -> None:
    """Raise AnalyticsError when a table of a run has not the rows that it had when the mark was made."""
    for name in REPLAYED:
        check_cut(directory.table(name), WRITER, mark.get(name, 0))


def pack_tables(directory: RunDirectory, oldest: Mapping[str, int]) -> None:
    """Pack what the tables have from before the oldest mark that the run may be cut back to, and logs altogether.

    Raises AnalyticsError.
    """
    for name in (*REPLAYED, "logs"):
        pack_parts(directory.table(name), WRITER, name, sys.maxsize if name == "logs" else oldest.get(name, 0))
