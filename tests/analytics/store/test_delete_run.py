"""A run that is deleted from a store has gone from all tables, and the others are as they were."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner, Result

from rattle.analytics.annotations import annotate
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.schema import TABLES
from rattle.analytics.store import Store
from rattle.analytics.store.load import SETTINGS, load_run
from rattle.analytics.store.tables import STORED
from rattle.cli import main
from tests.analytics.build import START, episode_row, make_run, update_row, write_rows


def call(*arguments: str, **more: Any) -> Result:
    return CliRunner().invoke(main, ["runs", "delete", *arguments], **more)


def fill(store: Store, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run = make_run(tmp_path, name)
        write_rows(run, "updates", [update_row(run, version) for version in (1, 2)])
        write_rows(run, "episodes", [episode_row(run, number) for number in range(3)])
        write_rows(run, "logs", [{"time": START, "level": "INFO", "run_id": name, "event": "e"}])
        annotate(run, lambda said: said.with_note("good"))
        load_run(store, run)


def run_ids(store: Store, table: str) -> str:
    return store.read(f"SELECT DISTINCT run_id FROM {table} ORDER BY run_id", "TSVRaw").decode().replace("\n", " ")


def test_a_run_goes_after_a_question(store: Store, database: str, tmp_path: Path) -> None:
    fill(store, tmp_path)
    CliRunner().invoke(main, ["runs", "tag", "one", "two", "--add", "x", "--store", database])
    refused = call("one", "--store", database, input="n\n")
    assert refused.exit_code == 1
    assert "Delete this run from the store permanently? [y/N]" in refused.stdout
    assert run_ids(store, "runs") == "one two "
    assert call("on", "one", "--store", database, input="y\n").stdout.endswith("deleted one\n")
    for table in ("runs", "updates", "episodes", "annotations"):
        assert run_ids(store, table) == "two ", table
    for table in STORED:
        assert "one" not in run_ids(store, f"stored_{table}")
    assert set(TABLES) <= set(STORED)
    assert call("one", "--store", database, "--yes").exit_code == 1


def test_a_run_that_was_deleted_can_be_loaded_again(store: Store, database: str, tmp_path: Path) -> None:
    fill(store, tmp_path)
    tables = ("runs", "updates", "episodes", "logs", "annotations")
    for _ in range(2):
        assert call("one", "--store", database, "--yes").stdout == "deleted one\n"
        load_run(store, RunDirectory(tmp_path / "one"))
        assert [run_ids(store, table) for table in tables] == ["one two "] * 5


def test_a_run_in_progress_is_refused_and_one_that_was_killed_is_not(
    store: Store, database: str, tmp_path: Path
) -> None:
    fill(store, tmp_path)
    running = {"run_id": "one", "status": "running", "written": "2100-01-01T00:00:00Z"}
    store.insert("stored_runs", msgspec.json.encode(running), "JSONEachRow", SETTINGS)
    row = {"run_id": "one", "policy_version": 3, "time": datetime.now(UTC)}
    store.insert("stored_updates", msgspec.json.encode(row), "JSONEachRow", SETTINGS)
    done = call("two", "one", "--store", database, "--yes")
    assert done.exit_code == 1
    assert "one in " in done.stderr
    assert "is in progress: stop it first, then delete it" in done.stderr
    assert run_ids(store, "runs") == "one two "
    store.command("DELETE FROM stored_updates WHERE run_id = 'one'")
    assert call("one", "--store", database, "--yes").stdout == "deleted one\n"
