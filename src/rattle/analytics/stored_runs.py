"""Runs that lie in a store, for those who read runs wherever they lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.extras import require
from rattle.analytics.run_directory import LATEST, RunDirectory, without_copies
from rattle.analytics.schema import quoted
from rattle.analytics.store.connection import Store, StoreError, open_store
from rattle.analytics.store.migrations import check_tables
from rattle.analytics.store.tables import PREFIX, STORED
from rattle.text import one_line

if TYPE_CHECKING:
    import pyarrow

Row = TypeVar("Row")

#: A statement that names the format of its answer.
WITH_FORMAT: Final = re.compile(r"\bFORMAT\s+\w+\s*;?\s*$", re.IGNORECASE)
#: How the store gives its rows to those who decode them here.
_READING: Final = "SETTINGS date_time_output_format = 'iso', output_format_json_quote_64bit_integers = 0"


class StoredRun:
    """One run of a store."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.run_id = run_id
        self._store = store

    def __str__(self) -> str:
        return f"{self.run_id} in {self._store.url}"

    def rows(self, table: str, kind: type[Row], order: str, most: int | None = None) -> list[Row]:
        """Return the rows of a table, or the first of them, as structs, whose fields are columns, in this order."""
        limit = "" if most is None else f"LIMIT {most}"
        return _rows(self._store, kind, f"{table} WHERE {self._mine} ORDER BY {order} {limit}")

    def read(self, columns: Sequence[str], where: Mapping[str, int]) -> pyarrow.Table:
        """Return columns of `steps`, as they were recorded, of the rows that have these values."""
        ipc = require("pyarrow.ipc", "analytics", "a replay")
        which = " AND ".join((self._mine, *(f"{name} = {value}" for name, value in where.items())))
        order = "policy_version, world, world_episode, agent, tick"
        answer = self._store.read(
            f"SELECT {', '.join(columns)} FROM steps WHERE {which} ORDER BY {order} "
            "SETTINGS output_format_arrow_string_as_string = 1",
            "ArrowStream",
        )
        return ipc.open_stream(answer).read_all()

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The settings of the run."""
        answer = self._store.read(f"SELECT config FROM runs WHERE {self._mine} {_READING}")
        rows = msgspec.json.Decoder(dict[str, Any]).decode_lines(answer)
        return dict(rows[0]["config"]) if rows else {}

    @property
    def _mine(self) -> str:
        return f"run_id = {quoted(self.run_id)}"


class StoredRuns:
    """The runs of a store, all of them or only some: what SQL is asked of."""

    def __init__(self, store: Store, chosen: Iterable[StoredRun] | None = None) -> None:
        self.files: dict[str, Path] = {}  # none is behind what the engine knows
        self.store = store
        self._bounds: dict[str, str] = {}  # what takes bounds away that were set
        self._chosen = None if chosen is None else tuple(run.run_id for run in chosen)

    def prepare(self, settings: Mapping[str, str]) -> None:
        """Have statements run under these settings, see the chosen runs only, and change nothing."""
        if self._chosen is not None:
            which = f"run_id IN ({', '.join(map(quoted, self._chosen)) or 'NULL'})"
            tables = ", ".join(f"'{PREFIX}{table}': {quoted(which)}" for table in STORED)
            settings = {**settings, "additional_table_filters": f"{{{tables}}}"}
        self.store.only_read({**self._bounds, **settings})

    def ask(self, statement: str, engine_format: str) -> bytes:
        """Return the answer to a statement; raises RuntimeError with the engine's message, AnalyticsError without."""
        if statement.startswith("EXPLAIN"):  # which would take the format for a part of what it explains
            statement = f"SELECT * FROM ({statement})"
        try:
            return self.store.read(statement, None if WITH_FORMAT.search(statement) else engine_format)
        except StoreError as error:
            if error.answer:
                raise RuntimeError(error.answer) from error
            raise

    def set(self, settings: Mapping[str, str]) -> None:
        """Have later statements run under these settings, until they are prepared again."""
        self._bounds = dict.fromkeys(settings, "0")  # which means none
        self.store.only_read(settings)

    def rows(self, kind: type[Row]) -> list[Row]:
        """Return the rows of `runs` as structs, whose fields are columns."""
        return _rows(self.store, kind, "runs ORDER BY run_id")

    def chosen(self, names: Iterable[str]) -> StoredRuns:
        """Return some of the runs, by names as `find` takes them."""
        return StoredRuns(self.store, [self.find(name) for name in names])

    def find(self, name: str) -> StoredRun:
        """Find a run by its run_id, by a unique beginning of that, or as "latest"."""
        started = {row.run_id: row.started for row in self.rows(_Started)}
        if name == LATEST and started:
            return StoredRun(self.store, max(started, key=lambda run_id: (started[run_id], run_id)))
        if name == LATEST:
            raise AnalyticsError(f"there is no run in {self.store.url} yet")
        found = [name] if name in started else [run_id for run_id in started if run_id.startswith(name)]
        if not found:
            raise AnalyticsError(
                f"no run '{one_line(name, 200)}' in {self.store.url}: give a run_id from "
                f"'rattle runs --store', or '{LATEST}'"
            )
        if len(found) > 1:
            some = ", ".join(found[:3]) + ", …" * (len(found) > 3)
            raise AnalyticsError(one_line(f"'{name}' is the beginning of {len(found)} runs ({some}): type more of it"))
        return StoredRun(self.store, found[0])


def _rows(store: Store, kind: type[Row], source: str) -> list[Row]:
    columns = ", ".join(f"`{name}`" for name in kind.__struct_fields__)  # type: ignore[attr-defined]
    return msgspec.json.Decoder(kind).decode_lines(store.read(f"SELECT {columns} FROM {source} {_READING}"))


class _Started(msgspec.Struct):
    run_id: str
    started: str


#: A run, wherever it lies.
AnyRun = RunDirectory | StoredRun


def each_once(runs: Sequence[AnyRun], warn: Callable[[str], None] | None = None) -> list[AnyRun]:
    """Return each run once, as `without_copies` does."""
    stored = {run.run_id: run for run in runs if isinstance(run, StoredRun)}
    directories = [run for run in runs if isinstance(run, RunDirectory)]
    return [*stored.values(), *without_copies(directories, warn)]


@contextmanager
def opened_runs(url: str) -> Iterator[StoredRuns]:
    """Open the store at a URL and give all of its runs; raises AnalyticsError."""
    with open_store(url) as store:
        check_tables(store)
        yield StoredRuns(store)
