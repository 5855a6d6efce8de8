"""The schema of a store by number: each migration is one step that is never changed again, and may run twice."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Final

import msgspec

from rattle.analytics import derived_views
from rattle.analytics.schema import TABLES
from rattle.analytics.store.connection import Store, StoreError
from rattle.analytics.store.tables import (
    CREATE_LIVES,
    CREATE_OUTLIVED,
    CREATE_RUN_LIVES,
    KINDS,
    PREFIX,
    STORED,
    create_table,
    create_view,
    stored_columns,
)

_APPLIED: Final = "schema_migrations"
_UNKNOWN_TABLE: Final = 60


class _Version(msgspec.Struct):
    version: int


class _Name(msgspec.Struct):
    name: str


def _begin(store: Store) -> None:
    for table in STORED:
        store.command(create_table(table))


def _annotate(store: Store) -> None:
    store.command(create_table("annotations"))


def _allow_rows_of_actions(store: Store) -> None:
    store.command(f"ALTER TABLE {PREFIX}steps MODIFY COLUMN action {TABLES['steps']['action']}")


def _keep_lines_of_wrong_clocks(store: Store) -> None:
    store.command(f"ALTER TABLE {PREFIX}logs MODIFY TTL {KINDS['logs'].ttl} SETTINGS materialize_ttl_after_modify = 0")


def _make_views_anew(_store: Store) -> None:
    """Change no table."""


#: What each number does. New columns and changed views need an empty step only: `create_tables` adds columns that are
#: missing, and makes all views again.
MIGRATIONS: Final[MappingProxyType[int, Callable[[Store], None]]] = MappingProxyType(
    {
        1: _begin,
        2: _annotate,
        3: _allow_rows_of_actions,
        4: _keep_lines_of_wrong_clocks,
        5: _make_views_anew,
        6: _make_views_anew,
    }
)

#: The schema that this version of Rattle reads and writes.
SCHEMA_VERSION: Final = max(MIGRATIONS)


def create_tables(store: Store) -> list[int]:
    """Bring a store to this schema, from whichever one it has, and return the numbers of the steps that were taken.

    Several processes may do so at a time, and again. Raises StoreError, for a store of a newer schema before anything
    is changed.
    """
    version = _version(store)
    _refuse_newer(store, version)
    store.command(
        f"CREATE TABLE IF NOT EXISTS {_APPLIED} (version UInt32, applied DateTime64(6, 'UTC') DEFAULT now64(6)) "
        "ENGINE = ReplacingMergeTree ORDER BY version"
    )
    steps = [number for number in MIGRATIONS if number > version]
    for number in steps:
        MIGRATIONS[number](store)
    _add_columns(store)
    for statement in views():
        store.command(statement)
    for number in steps:
        store.command(f"INSERT INTO {_APPLIED} (version) VALUES ({number})")
    return steps


def check_tables(store: Store) -> None:
    """Raise StoreError unless a store has this schema."""
    version = _version(store)
    _refuse_newer(store, version)
    if version < SCHEMA_VERSION:
        older = f"has schema {version}, and this version of Rattle reads {SCHEMA_VERSION}"
        has = older if version else "has no tables yet"
        raise StoreError(f"{store.url} {has}: run 'rattle create-tables' with its address")


def _version(store: Store) -> int:
    try:
        answer = store.read(f"SELECT max(version) AS version FROM {_APPLIED}")
    except StoreError as error:
        if error.code == _UNKNOWN_TABLE:
            return 0
        raise
    return msgspec.json.decode(answer, type=_Version).version


def _refuse_newer(store: Store, version: int) -> None:
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{store.url} has schema {version}, and this version of Rattle knows {SCHEMA_VERSION}: install a newer one"
        )


def _add_columns(store: Store) -> None:
    for table in STORED:
        answer = store.read(
            f"SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{PREFIX}{table}'"
        )
        there = {row.name for row in msgspec.json.Decoder(_Name).decode_lines(answer)}
        for name, how in stored_columns(table).items():
            if name not in there:
                store.command(f"ALTER TABLE {PREFIX}{table} ADD COLUMN IF NOT EXISTS `{name}` {how}")


def views() -> list[str]:
    """Return the statements that make all views, or change them."""
    own = {"lives": CREATE_LIVES, "run_lives": CREATE_RUN_LIVES}
    return [
        CREATE_OUTLIVED,
        *(create_view(table) for table in STORED if table not in own),
        *(own.get(view, derived_views.create_view(view)) for view in derived_views.VIEWS),
    ]
