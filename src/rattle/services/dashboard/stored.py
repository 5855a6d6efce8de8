"""Runs in a store: a ClickHouse server, or a folder of its embedded engine."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import numpy as np

from rattle.addresses import without_credentials
from rattle.analytics.query import Bounds, bounded
from rattle.analytics.replay.episodes import Episode, EpisodeSummary, list_episodes, load_episode
from rattle.analytics.run_settings import flatten
from rattle.analytics.runs import stored_row, stored_rows
from rattle.analytics.schema import quoted
from rattle.analytics.sketch import MOST_INTERVALS, Series
from rattle.analytics.store.connection import Store, StoreAway, open_store
from rattle.analytics.store.migrations import check_tables
from rattle.analytics.stored_runs import StoredRun, StoredRuns
from rattle.analytics.updates import NUMBERS, Curve, read_evaluations
from rattle.policies.file import StoredPolicy
from rattle.services.dashboard.answers import answer_of
from rattle.services.dashboard.event_digest import EventDigest, LogRow
from rattle.services.dashboard.source import MOST_ROWS, QUERY_SECONDS, Busy, Events, NotThere, QueryAnswer, RunRow
from rattle.text import one_line

#: Connections to a server; a folder has one.
_CONNECTIONS: Final = 4
_PATIENCE_SECONDS: Final = 10.0
_MEMORY_BYTES: Final = 2**31
#: Events of a run that are looked at, the newest.
_MOST_EVENTS: Final = 20_000
_BOUNDS: Final = {"max_execution_time": str(QUERY_SECONDS)}
_UPDATES: Final = {name: f"`{name}`" for name in NUMBERS}
_EPISODES: Final = {"env_steps": "env_steps", "return": "`return`", "length": "length", "truncated": "NOT terminated"}


class StoreRuns:
    """The runs of the store at a URL, over a few connections that stay open."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.title = without_credentials(url)
        self._turns = threading.BoundedSemaphore(1 if url.startswith("chdb:") else _CONNECTIONS)
        self._idle: list[_Connection] = []

    def check(self) -> None:
        """Raise StoreError when the store cannot be read."""
        with self._reading():
            pass

    def close(self) -> None:
        """End the connections."""
        while self._idle:
            self._idle.pop().close()

    def runs(self) -> Sequence[RunRow]:
        """Return all runs, the newest first."""
        with self._reading() as store:
            rows = stored_rows(store.runs)
        runs = [_run(row) for row in rows]
        return sorted(runs, key=lambda run: (run.row["started"].timestamp() if run.row["started"] else 0, run.id))[::-1]

    def run(self, run_id: str) -> RunRow:
        """Return one run; raises NotThere."""
        with self._reading() as store:
            row = stored_row(store.run(run_id))
        if row is None:
            raise NotThere(f"there is no run '{one_line(run_id, 200)}' in {self.title}")
        return _run(row)

    def updates(self, run_id: str) -> Series:
        """Return the numbers of a run's updates."""
        with self._reading() as store:
            return store.series("updates", _UPDATES, run_id)

    def episodes(self, run_id: str) -> Series:
        """Return the numbers of a run's episodes."""
        with self._reading() as store:
            return store.series("episodes", _EPISODES, run_id)

    def evaluations(self, run_id: str) -> Mapping[str, Curve]:
        """Return the numbers of a run's evaluations."""
        with self._reading() as store:
            return read_evaluations(store.run(run_id))

    def events(self, run_id: str) -> Events:
        """Return what has happened in a run lately."""
        digest = EventDigest()
        with self._reading() as store:
            digest.add(store.run(run_id).rows("logs", LogRow, "time DESC", _MOST_EVENTS))
        return digest.events()

    def recorded(self, run_id: str) -> Sequence[EpisodeSummary]:
        """Return the recorded episodes of a run."""
        with self._reading() as store:
            return list_episodes(store.run(run_id))

    def episode(self, run_id: str, which: str) -> Episode:
        """Return a recorded episode."""
        with self._reading() as store:
            return load_episode(store.run(run_id), which)

    def policies(self, run_id: str) -> Mapping[str, StoredPolicy]:
        """Return none: a store has no files of policies."""
        return {}

    def ask(self, sql: str) -> QueryAnswer:
        """Answer one SQL statement over all runs."""
        began = time.perf_counter()
        with self._reading() as store:
            content = bounded(sql, store.runs, Bounds(MOST_ROWS + 1, QUERY_SECONDS, _MEMORY_BYTES))
        return answer_of(content, time.perf_counter() - began)

    @contextmanager
    def _reading(self) -> Iterator[_Connection]:
        """Give a connection that nobody else uses; one that has failed is not used again."""
        if not self._turns.acquire(timeout=_PATIENCE_SECONDS):
            raise Busy(f"others are reading {self.title}: ask again in a moment")
        try:
            connection = self._idle.pop() if self._idle else _Connection(self._url)
            try:
                connection.runs.prepare(_BOUNDS)
                yield connection
            except StoreAway:
                connection.close()
                raise
            except BaseException:
                self._idle.append(connection)
                raise
            self._idle.append(connection)
        finally:
            self._turns.release()


class _Connection:
    def __init__(self, url: str) -> None:
        self._store: Store = open_store(url, seconds=2 * QUERY_SECONDS)
        try:
            check_tables(self._store)
        except BaseException:
            self._store.close()
            raise
        self.runs = StoredRuns(self._store)

    def close(self) -> None:
        self._store.close()

    def run(self, run_id: str) -> StoredRun:
        return StoredRun(self._store, run_id)

    def series(self, table: str, columns: Mapping[str, str], run_id: str) -> Series:
        """Return columns over `env_steps`: in as many intervals as a sketch would have, but made by the store."""
        where = f"FROM {table} WHERE run_id = {quoted(run_id)}"
        ((rows, low, high),) = self._rows(
            f"SELECT toFloat64(count()), min(toFloat64(env_steps)), max(toFloat64(env_steps)) {where}"
        )
        width = (
            2 ** max(0, math.ceil(math.log2(max(1.0, (high - low) / MOST_INTERVALS)))) if rows > MOST_INTERVALS else 1
        )
        how = [f"toFloat64({function}({_number(column)}))" for column in columns.values() for function in _FUNCTIONS]
        maps = [f"{function}Map(metrics)" for function in _FUNCTIONS]
        found = self._rows(
            f"SELECT {', '.join((*how, *maps))} {where} GROUP BY intDiv(env_steps, {width}) AS place ORDER BY place"
        )
        return _series(list(columns), found, int(rows))

    def _rows(self, statement: str) -> list[list[Any]]:
        answer = self._store.read(statement, "JSONCompactEachRow")
        return msgspec.json.Decoder(list[Any]).decode_lines(answer)


_FUNCTIONS: Final = ("avg", "min", "max")


def _number(column: str) -> str:
    return f"toFloat64({column})" if column.startswith("NOT ") else column


def _series(names: Sequence[str], rows: Sequence[Sequence[Any]], count: int) -> Series:
    """Return the columns of an answer: three of each name, and three maps of metrics at the end."""
    found: list[dict[str, Curve]] = []
    for place in range(len(_FUNCTIONS)):
        columns = {name: np.array([row[3 * at + place] for row in rows], np.float64) for at, name in enumerate(names)}
        maps = [row[3 * len(names) + place] for row in rows]
        for metric in sorted({metric for one in maps for metric in one} - columns.keys()):
            columns[metric] = np.array([one.get(metric) for one in maps], np.float64)
        found.append(columns)
    mean, low, high = found
    return Series(mean, low, high, count)


def _run(row: Mapping[str, Any]) -> RunRow:
    return RunRow(row, flatten(row["config"] or {}))
