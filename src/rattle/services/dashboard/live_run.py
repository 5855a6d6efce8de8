"""The tables of one run directory, as far as they have been read: a later look reads only what has been added."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec
import numpy as np

from rattle.analytics.packing import unpack_as, unpack_numbers
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.sketch import Series, Sketch
from rattle.analytics.tail import Rewound, TableTail
from rattle.analytics.updates import Curve, UpdateRow, update_columns
from rattle.services.dashboard.event_digest import EventDigest, LogRow
from rattle.services.dashboard.source import Events

#: Looks at a table that is cut back while it is read.
_ATTEMPTS: Final = 3

Block = TypeVar("Block")
Kept = TypeVar("Kept")
Given = TypeVar("Given")


class _EpisodeRow(msgspec.Struct, rename={"total": "return"}, gc=False):
    env_steps: float
    total: float
    length: float
    terminated: bool
    metrics: dict[str, float] = {}


class _Followed(Generic[Block, Kept]):
    """What the rows of a table come to; `make` gives what keeps it, and `take` gives it a block of rows."""

    def __init__(
        self, follow: Callable[[], TableTail[Block]], make: Callable[[], Kept], take: Callable[[Kept, Block], None]
    ) -> None:
        self._follow, self._make, self._take = follow, make, take
        self._tail, self._kept = self._begin()
        self._lock = threading.Lock()

    def _begin(self) -> tuple[TableTail[Block], Kept]:
        return self._follow(), self._make()

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
        updates = partial(TableTail, run, "updates", _decode_updates, _unpack_updates)
        episodes = partial(TableTail, run, "episodes", _decode_episodes, _unpack_episodes)
        logs = partial(TableTail, run, "logs", _decode_logs, _unpack_logs)
        self._updates = _Followed(updates, _sketch, Sketch.add)
        self._episodes = _Followed(episodes, _sketch, Sketch.add)
        self._logs = _Followed(logs, EventDigest, EventDigest.add)

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


_update_rows: Final = msgspec.json.Decoder(UpdateRow)
_episode_rows: Final = msgspec.json.Decoder(_EpisodeRow)
_log_rows: Final = msgspec.json.Decoder(LogRow)


def _decode_updates(lines: bytes) -> Mapping[str, Curve]:
    return update_columns(_update_rows.decode_lines(lines))


def _unpack_updates(path: Path) -> Mapping[str, Curve]:
    return unpack_numbers(path, UpdateRow.__struct_fields__)


def _decode_episodes(lines: bytes) -> Mapping[str, Curve]:
    rows = _episode_rows.decode_lines(lines)
    columns = {
        "env_steps": np.array([row.env_steps for row in rows]),
        "return": np.array([row.total for row in rows]),
        "length": np.array([row.length for row in rows]),
        "truncated": np.array([not row.terminated for row in rows], np.float64),
    }
    for name in sorted({name for row in rows for name in row.metrics} - columns.keys()):
        columns[name] = np.array([row.metrics.get(name, np.nan) for row in rows])
    return columns


def _unpack_episodes(path: Path) -> Mapping[str, Curve]:
    columns = unpack_numbers(path, _EpisodeRow.__struct_encode_fields__)
    return {**columns, "truncated": 1 - columns.pop("terminated")}


def _decode_logs(lines: bytes) -> Sequence[LogRow]:
    return _log_rows.decode_lines(lines)


def _unpack_logs(path: Path) -> Sequence[LogRow]:
    return unpack_as(path, LogRow)
