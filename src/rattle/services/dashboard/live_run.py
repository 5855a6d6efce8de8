"""The tables of one run directory, as far as they have been read: a later look reads only what has been added."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, TypeVar

import msgspec
import numpy as np

from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.sketch import Series, Sketch
from rattle.analytics.tail import Rewound, TableTail
from rattle.analytics.updates import Curve, UpdateRow, update_columns
from rattle.services.dashboard.event_digest import EventDigest, LogRow
from rattle.services.dashboard.source import Events

#: Looks at a table that is cut back while it is read.
_ATTEMPTS: Final = 3

Row = TypeVar("Row", bound=msgspec.Struct)
Kept = TypeVar("Kept")
Given = TypeVar("Given")


class _EpisodeRow(msgspec.Struct, rename={"total": "return"}, gc=False):
    env_steps: float
    total: float
    length: float
    terminated: bool
    metrics: dict[str, float] = {}


class _Followed(Generic[Row, Kept]):
    """What the rows of a table come to; `make` gives what keeps it, and `take` gives it rows."""

    def __init__(
        self,
        run: RunDirectory,
        table: str,
        kind: type[Row],
        make: Callable[[], Kept],
        take: Callable[[Kept, Sequence[Row]], None],
    ) -> None:
        self._run, self._table, self._kind, self._make, self._take = run, table, kind, make, take
        self._tail, self._kept = self._begin()
        self._lock = threading.Lock()

    def _begin(self) -> tuple[TableTail[Row], Kept]:
        return TableTail(self._run, self._table, self._kind), self._make()

    def look(self, give: Callable[[Kept], Given]) -> Given:
        """Take the new rows, and return what is made of all of them."""
        with self._lock:
            for attempt in range(_ATTEMPTS):
                try:
                    for rows in self._tail.blocks():
                        self._take(self._kept, rows)
                    break
                except Rewound:
                    self._tail, self._kept = self._begin()
                    if attempt == _ATTEMPTS - 1:
                        raise
                except BaseException:  # what was taken of a damaged file is not known
                    self._tail, self._kept = self._begin()
                    raise
            return give(self._kept)


class LiveRun:
    """One run directory that is looked at again and again, in several threads."""

    def __init__(self, run: RunDirectory) -> None:
        self._updates = _Followed(
            run, "updates", UpdateRow, _sketch, lambda sketch, rows: sketch.add(update_columns(rows))
        )
        self._episodes = _Followed(
            run, "episodes", _EpisodeRow, _sketch, lambda sketch, rows: sketch.add(_episode_columns(rows))
        )
        self._logs = _Followed(run, "logs", LogRow, EventDigest, EventDigest.add)

    def updates(self) -> Series:
        """Return the numbers of the updates."""
        return self._updates.look(Sketch.series)

    def episodes(self) -> Series:
        """Return the numbers of the episodes."""
        return self._episodes.look(Sketch.series)

    def events(self) -> Events:
        """Return what has happened."""
        return self._logs.look(EventDigest.events)


def _sketch() -> Sketch:
    return Sketch("env_steps")


def _episode_columns(rows: Sequence[_EpisodeRow]) -> Mapping[str, Curve]:
    columns = {
        "env_steps": np.array([row.env_steps for row in rows]),
        "return": np.array([row.total for row in rows]),
        "length": np.array([row.length for row in rows]),
        "truncated": np.array([not row.terminated for row in rows], np.float64),
    }
    for name in sorted({name for row in rows for name in row.metrics} - columns.keys()):
        columns[name] = np.array([row.metrics.get(name, np.nan) for row in rows])
    return columns
