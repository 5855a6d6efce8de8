"""Run directories into a store: files are handed over as they are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import msgspec

from rattle.analytics.annotations import read_annotations
from rattle.analytics.errors import AnalyticsError, reading
from rattle.analytics.run_directory import TABLES, RunDirectory
from rattle.analytics.runs import row
from rattle.analytics.schema import quoted
from rattle.analytics.store.connection import Store, StoreError
from rattle.analytics.store.tables import DIRECTORY_LOG, KINDS, PREFIX, REPLAYED
from rattle.analytics.table_parts import PACKED, TEXT, table_files
from rattle.text import one_line

#: How rows are read; also those of messages. A column that is unknown here would be lost without a word.
SETTINGS: Final = {
    "async_insert": 0,  # the answer comes when the rows are stored
    "date_time_input_format": "best_effort",  # reads ISO 8601
    "input_format_skip_unknown_fields": 0,
    "max_partitions_per_insert_block": 0,  # clocks of hosts may be years apart
    "optimize_on_insert": 0,  # equal rows of a batch are joined with all others later, and count once until then
}
_FORMATS: Final = {TEXT: "JSONEachRow", PACKED: "Parquet"}
_BYTES_AT_A_TIME: Final = 1 << 24


class _Count(msgspec.Struct):
    n: int


def load_run(store: Store, run: RunDirectory) -> None:
    """Store what a run directory holds, again and again if need be: the rows that are new are added.

    Rows that the directory has no more, because they were played again, go. Where the run came through the broker too,
    its rows count once, lives that were replayed stay replayed, and what only the directory has counts as well. Raises
    AnalyticsError that names the file which does not fit.
    """
    known = row(run)
    run_id = quoted(known["run_id"])
    with reading(run.path):
        written = datetime.fromtimestamp((run.run if run.run.exists() else run.config).stat().st_mtime, UTC)
    began = quoted(store.read("SELECT now64(6, 'UTC')", "TSVRaw").decode().strip())
    _insert(store, "runs", msgspec.json.encode({**known, "written": written}))
    if run.annotations.exists():
        said = {"run_id": known["run_id"], **msgspec.structs.asdict(read_annotations(run)), "written": _changed(run)}
        _insert(store, "annotations", msgspec.json.encode(said))
    for table in TABLES:
        _load_files(store, table, run.table(table))
    if _count(store, f"SELECT count() AS n FROM {PREFIX}lives WHERE run_id = {run_id}"):
        _drop_logs_that_the_broker_brought(store, run_id)
        _count_steps_with_their_episodes(store, run_id, began)
        for table in REPLAYED:
            _count_what_only_the_directory_has(store, table, run_id, began)
    else:
        for table in REPLAYED:
            _delete(store, table, f"run_id = {run_id} AND stored < {began}")


def _load_files(store: Store, table: str, folder: Path) -> None:
    """Store the files of a table; those of a run in progress may be closed and packed meanwhile."""
    given = set[Path]()
    while new := [path for path in table_files(folder) if path not in given]:
        given.update(new)
        for path in filter(Path.exists, new):
            for part in _parts(path):
                try:
                    _insert(store, table, part, _FORMATS[path.suffix])
                except StoreError as error:
                    if error.code is None:
                        raise
                    raise AnalyticsError(one_line(f"{path} cannot be stored: {error.reason}")) from error


def _changed(run: RunDirectory) -> datetime:
    with reading(run.annotations):
        return datetime.fromtimestamp(run.annotations.stat().st_mtime, UTC)


def _insert(store: Store, table: str, rows: bytes, engine_format: str = "JSONEachRow") -> None:
    """Append rows; the store must not take them for those that it was given once and has deleted since."""
    own: dict[str, Any] = {**SETTINGS, "insert_deduplication_token": token_hex(16)}
    store.insert(PREFIX + table, rows, engine_format, own)


def _count_what_only_the_directory_has(store: Store, table: str, run_id: str, began: str) -> None:
    """Copy rows of this load that count in no life to the life that made them: a directory does not say which."""
    lives = f"SELECT groupArray((life, after_update)) FROM {PREFIX}lives FINAL WHERE run_id = {run_id}"
    life = f"toUInt32(arrayMax(of -> if(of.2 < made_by, of.1, 0), ({lives})))"
    key = KINDS[table].order.removeprefix("run_id, life, ")
    new = f"stored >= {began} AND ({key}) NOT IN (SELECT {key} FROM {table} WHERE run_id = {run_id})"
    store.command(
        f"INSERT INTO {PREFIX}{table} SELECT * REPLACE ({life} AS life) FROM {PREFIX}{table} AS loaded FINAL "
        f"WHERE run_id = {run_id} AND loaded.life = 0 AND {new}"
    )


def _count_steps_with_their_episodes(store: Store, run_id: str, began: str) -> None:
    """Have steps of this load belong to the update in which their episode ended, as those of the broker do."""
    ended = "max(policy_version) OVER (PARTITION BY world, world_episode, agent) + 1"
    store.command(
        f"INSERT INTO {PREFIX}steps SELECT * REPLACE (toUInt64({ended}) AS made_by, now64(6) AS stored) "
        f"FROM {PREFIX}steps FINAL WHERE run_id = {run_id} AND life = 0 AND stored >= {began}"
    )


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
