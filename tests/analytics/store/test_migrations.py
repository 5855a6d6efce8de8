"""The schema of a store: made, made again, brought up to date, and refused where it is newer."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import pytest
from click.testing import CliRunner

from rattle.analytics.derived_views import VIEWS
from rattle.analytics.schema import DERIVED_COLUMNS, TABLES
from rattle.analytics.store import SCHEMA_VERSION, Store, StoreError, check_tables, create_tables, open_store
from rattle.analytics.store.load import SETTINGS
from rattle.analytics.store.migrations import views
from rattle.analytics.store.tables import STORED, create_table
from rattle.cli import main


def described(store: Store, table: str) -> dict[str, str]:
    rows = msgspec.json.Decoder(dict[str, str]).decode_lines(store.read(f"DESCRIBE {table}"))
    return {row["name"]: row["type"] for row in rows}


def test_views_have_the_columns_of_run_directories(store: Store) -> None:
    for table, columns in TABLES.items():
        seen = described(store, table)
        derived = {name: seen.pop(name) for name in DERIVED_COLUMNS.get(table, {})}
        assert list(seen.items()) == list(columns.items())
        assert derived == ({"food": "Nullable(Float64)"} if table == "episodes" else {})
    for view in VIEWS:
        assert store.read(f"SELECT * FROM {view}") == b""


def test_tables_are_made_once(database: str) -> None:
    with open_store(database) as store:
        with pytest.raises(StoreError, match=r"has no tables yet: run 'rattle create-tables' with its address"):
            check_tables(store)
        assert create_tables(store) == [*range(1, SCHEMA_VERSION + 1)]
        store.insert("stored_updates", b'{"run_id":"r","policy_version":1}', "JSONEachRow", {})
        assert create_tables(store) == []
        check_tables(store)
        assert store.read("SELECT run_id FROM updates") == b'{"run_id":"r"}\n'


def test_a_table_that_lacks_columns_gets_them(store: Store) -> None:
    for column in ("tags", "config"):
        store.command(f"ALTER TABLE stored_runs DROP COLUMN IF EXISTS `{column}`")
    store.command("INSERT INTO stored_runs (run_id) VALUES ('old')")
    create_tables(store)
    assert described(store, "runs") == dict(TABLES["runs"])
    assert store.read("SELECT run_id, config FROM runs") == b'{"run_id":"old","config":{}}\n'


def test_steps_of_an_earlier_schema_take_rows_of_numbers_as_actions(store: Store) -> None:
    store.command("INSERT INTO stored_steps (run_id, action) VALUES ('old', 2)")
    store.command("ALTER TABLE stored_steps MODIFY COLUMN action Int32 DEFAULT 0")
    store.command("ALTER TABLE schema_migrations DELETE WHERE version >= 3 SETTINGS mutations_sync = 1")
    assert create_tables(store) == [*range(3, SCHEMA_VERSION + 1)]
    assert described(store, "steps") == dict(TABLES["steps"])
    assert store.read("SELECT action, action_row FROM steps") == b'{"action":2,"action_row":[]}\n'


def test_debug_lines_of_wrong_clocks_stay(store: Store) -> None:
    """They went at once where the days after them were counted in 32 bits."""
    store.command("ALTER TABLE schema_migrations DELETE WHERE version >= 4 SETTINGS mutations_sync = 1")
    store.command("ALTER TABLE stored_logs MODIFY TTL toDateTime(time) + INTERVAL 14 DAY DELETE WHERE level = 'DEBUG'")
    assert create_tables(store) == [*range(4, SCHEMA_VERSION + 1)]
    for year in (1900, 1971, 2105, 2107, 2150, 2299):
        row = {"run_id": "r", "level": "DEBUG", "time": f"{year}-01-01T00:00:00Z", "number": year}
        store.insert("stored_logs", msgspec.json.encode(row), "JSONEachRow", SETTINGS)
    store.command("OPTIMIZE TABLE stored_logs FINAL")
    assert store.read("SELECT number FROM stored_logs ORDER BY number", "TSVRaw").split() == [
        b"2105",
        b"2107",
        b"2150",
        b"2299",
    ]


def test_a_store_of_a_newer_schema_is_refused(store: Store) -> None:
    store.command(f"INSERT INTO schema_migrations (version) VALUES ({SCHEMA_VERSION + 1})")
    for refusing in (check_tables, create_tables):
        with pytest.raises(StoreError, match=rf"schema {SCHEMA_VERSION + 1}, and this .* knows {SCHEMA_VERSION}"):
            refusing(store)


def test_a_change_of_tables_or_views_has_a_number() -> None:
    """Where this fails, add an empty step with the next number to MIGRATIONS, and its fingerprints here.

    A store whose views are older than its number says would be read as if they were new.
    """
    fingerprints = {6: ("982f2178a43711a9", "7789433a77999119")}  # of what the newest number makes
    found = (sha256("\n".join(made).encode()).hexdigest()[:16] for made in (map(create_table, STORED), views()))
    assert fingerprints == {SCHEMA_VERSION: tuple(found)}


def test_the_command(folder_url: str) -> None:
    said = [CliRunner().invoke(main, ["create-tables", folder_url], catch_exceptions=False).output for _ in range(2)]
    assert said == [
        f"{folder_url} brought to schema {SCHEMA_VERSION}\n",
        f"{folder_url} has schema {SCHEMA_VERSION} already\n",
    ]
