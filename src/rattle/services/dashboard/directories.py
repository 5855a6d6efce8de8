"""Runs in a folder of run directories."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rattle.analytics import run_directory
from rattle.analytics.replay.episodes import Episode, EpisodeSummary, list_episodes, load_episode
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.run_settings import flatten
from rattle.analytics.runs import row
from rattle.analytics.sketch import Series
from rattle.analytics.updates import Curve, read_evaluations
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy, load_policy
from rattle.services.dashboard import sql_process
from rattle.services.dashboard.live_run import LiveRun
from rattle.services.dashboard.source import Events, NotThere, QueryAnswer, RunRow
from rattle.text import one_line, printable

#: Runs whose tables are kept in memory as far as they have been read.
_MOST_LIVE: Final = 128
_Stamps = tuple[tuple[int, int, int] | None, ...]
_EARLY: Final = datetime.min.replace(tzinfo=UTC)


def _leave_out(line: str) -> None:
    """Say nothing of a folder that cannot be read: `rattle runs` does."""


class RunDirectories:
    """The runs below a folder, or one run."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.title = printable(root)
        self._live: OrderedDict[Path, LiveRun] = OrderedDict()
        self._rows: dict[Path, tuple[_Stamps, RunRow]] = {}
        self._places: dict[str, RunDirectory] = {}  # of runs whose directories are not called by their names
        self._lock = threading.Lock()

    def check(self) -> None:
        """Take any folder: one that is not there has no runs yet."""

    def close(self) -> None:
        """Hold nothing open."""

    def runs(self) -> Sequence[RunRow]:
        """Return all runs, the newest first."""
        runs = [self._row_of(directory) for directory in self._directories()]
        return sorted(runs, key=lambda run: (run.row["started"] or _EARLY, run.id), reverse=True)

    def run(self, run_id: str) -> RunRow:
        """Return one run; raises NotThere."""
        return self._row_of(self._find(run_id))

    def updates(self, run_id: str) -> Series:
        """Return the numbers of a run's updates."""
        return self._followed(run_id).updates()

    def episodes(self, run_id: str) -> Series:
        """Return the numbers of a run's episodes."""
        return self._followed(run_id).episodes()

    def evaluations(self, run_id: str) -> Mapping[str, Curve]:
        """Return the numbers of a run's evaluations."""
        return read_evaluations(self._find(run_id))

    def events(self, run_id: str) -> Events:
        """Return what has happened in a run."""
        return self._followed(run_id).events()

    def recorded(self, run_id: str) -> Sequence[EpisodeSummary]:
        """Return the recorded episodes of a run."""
        return list_episodes(self._find(run_id))

    def episode(self, run_id: str, which: str) -> Episode:
        """Return a recorded episode."""
        return load_episode(self._find(run_id), which)

    def policies(self, run_id: str) -> Mapping[str, StoredPolicy]:
        """Return the newest, the best and the first policy of a run, where they can be read."""
        run = self._find(run_id)
        policies = {}
        for name, path in (("newest", run.policy), ("best", run.best_policy), ("first", run.first_policy)):
            try:
                policies[name] = load_policy(path.read_bytes())
            except (OSError, PolicyError):
                continue  # it is not there (yet), or of no use
        return policies

    def ask(self, sql: str) -> QueryAnswer:
        """Answer one SQL statement over all runs."""
        return sql_process.ask(sql, self._root)

    def _directories(self) -> list[RunDirectory]:
        return run_directory.without_copies(run_directory.list_runs(self._root, _leave_out), _leave_out)

    def _find(self, run_id: str) -> RunDirectory:
        """Return the directory of a run: nearly always it is called by the run's name, else its place is kept."""
        likely = self._places.get(run_id) or RunDirectory(self._root / Path(run_id).name)
        if likely.is_run and self._row_of(likely).id == run_id:
            return likely
        for directory in self._directories():
            if self._row_of(directory).id == run_id:
                self._places[run_id] = directory
                return directory
        raise NotThere(f"there is no run '{one_line(run_id, 200)}' in {self.title}")

    def _row_of(self, directory: RunDirectory) -> RunRow:
        """Return a run's row: whether one is still in progress no file says, but the rows of others are kept."""
        stamps = tuple(map(_stamp, (directory.run, directory.annotations, directory.config)))
        known = self._rows.get(directory.path)
        if known is None or known[0] != stamps or known[1].is_live:
            found = row(directory)
            known = self._rows[directory.path] = stamps, RunRow(found, flatten(found["config"]))
        return known[1]

    def _followed(self, run_id: str) -> LiveRun:
        directory = self._find(run_id)
        with self._lock:
            live = self._live.pop(directory.path, None) or LiveRun(directory)
            self._live[directory.path] = live
            if len(self._live) > _MOST_LIVE:
                self._live.popitem(last=False)
        return live


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with a file, None where there is none that can be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
