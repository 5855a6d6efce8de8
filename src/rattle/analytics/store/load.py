"""Run directories into a store: files are handed over as they are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from rattle.analytics.annotations import read_annotations
from rattle.analytics.errors import AnalyticsError, reading
from rattle.analytics.run_directory import TABLES, RunDirectory
from rattle.analytics.runs import row
from rattle.analytics.schema import quoted
from rattle.analytics.store.connection import Store, StoreError
from rattle.analytics.store.tables import DIRECTORY_LOG, PREFIX, REPLAYED
from rattle.analytics.table_parts import PACKED, TEXT, table_files
from rattle.text import one_line

#: How rows are read; also those of messages. A column that is unknown here would be lost without a word.
SETTINGS: Final = {
    "async_insert": 0,  # the answer comes when the rows are stored
    "date_time_input_format": "best_effort",  # reads ISO 8601
    "input_format_skip_unknown_fields": 0,
    "max_partitions_per_insert_block": 0,  # clocks of hosts may be years apart
}
_FORMATS: Final = {TEXT: "JSONEachRow", PACKED: "Parquet"}
_BYTES_AT_A_TIME: Final = 1 << 24


class _Count(msgspec.Struct):
    n: int


def load_run(store: Store, run: RunDirectory) -> None:
    """Store what a run directory holds, again and again if need be: the rows that are new are added.

    Rows that the directory has no more, because they were played again, go. Where the run came through the broker too,
    its rows count once, and lives that were replayed stay replayed. Raises AnalyticsError that names the file which
    does not fit.
    """
    known = row(run)
    run_id = quoted(known["run_id"])
    with reading(run.path):
        written = datetime.fromtimestamp((run.run if run.run.exists() else run.config).stat().st_mtime, UTC)
    began = quoted(store.read("SELECT now64(6, 'UTC')", "TSVRaw").decode().strip())
    store.insert(f"{PREFIX}runs", msgspec.json.encode({**known, "written": written}), "JSONEachRow", SETTINGS)
    if run.annotations.exists():
        said = {"run_id": known["run_id"], **msgspec.structs.asdict(read_annotations(run)), "written": _changed(run)}
        store.insert(f"{PREFIX}annotations", msgspec.json.encode(said), "JSONEachRow", SETTINGS)
    for table in TABLES:
        for path in table_files(run.table(table)):
            for part in _parts(path):
                _insert(store, table, path, part)
    if _count(store, f"SELECT count() AS n FROM {PREFIX}lives WHERE run_id = {run_id}"):
        _drop_logs_that_the_broker_brought(store, run_id)
    else:
        for table in REPLAYED:
            _delete(store, table, f"run_id = {run_id} AND stored < {began}")


def _changed(run: RunDirectory) -> datetime:
    with reading(run.annotations):
        return datetime.fromtimestamp(run.annotations.stat().st_mtime, UTC)


def _insert(store: Store, table: str, path: Path, part: bytes) -> None:
    try:
        store.insert(PREFIX + table, part, _FORMATS[path.suffix], SETTINGS)
    except StoreError as error:
        if error.code is None:
            raise
        raise AnalyticsError(one_line(f"{path} cannot be stored: {error.reason}")) from error


def _drop_logs_that_the_broker_brought(store: Store, run_id: str) -> None:
    brought = f"SELECT time, {DIRECTORY_LOG} FROM {PREFIX}logs WHERE run_id = {run_id} AND writer != ''"
    _delete(store, "logs", f"run_id = {run_id} AND writer = '' AND (time, number) IN ({brought})")


def _delete(store: Store, table: str, which: str) -> None:
    """Delete rows, if any of them counts: to look is cheap."""
    if _count(store, f"SELECT count() AS n FROM {PREFIX}{table} FINAL WHERE {which}"):
        store.command(f"DELETE FROM {PREFIX}{table} WHERE {which}")


def _count(store: Store, statement: str) -> int:
    return msgspec.json.decode(store.read(statement), type=_Count).n


def _parts(path: Path) -> Iterator[bytes]:
    """Yield a file in parts that are whole by themselves, without half a line at its end."""
    with reading(path), path.open("rb") as file:
        if path.suffix == PACKED:
            yield file.read()
            return
        rest = b""
        while part := file.read(_BYTES_AT_A_TIME):
            lines, newline, rest = (rest + part).rpartition(b"\n")
            if newline:
                yield lines + newline
