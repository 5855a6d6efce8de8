"""Tags and notes of runs in a store: beside what trains, from the command line and from run directories."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from rattle.analytics.annotations import annotate
from rattle.analytics.store import Store
from rattle.analytics.store.load import SETTINGS, load_run
from rattle.cli import main
from tests.analytics.build import make_run


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["runs", *arguments])


def said(store: Store) -> dict[str, tuple[list[str], str, bool]]:
    rows = store.read("SELECT run_id, tags, note, archived FROM runs").splitlines()
    decoded: list[dict[str, Any]] = [msgspec.json.decode(row) for row in rows]
    return {row["run_id"]: (row["tags"], row["note"], row["archived"]) for row in decoded}


def test_runs_of_a_store_take_tags_and_notes(store: Store, database: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        load_run(store, make_run(tmp_path, name))
    assert said(store) == {"one": ([], "", False), "two": ([], "", False)}
    assert call("tag", "one", "tw", "--add", "good", "--store", database).stdout == "one: good\ntwo: good\n"
    assert call("note", "one", "it's \\ good", "--store", database).exit_code == 0
    assert call("note", "one", "--store", database).stdout == "it's \\ good\n"
    assert call("archive", "two", "--store", database).exit_code == 0
    assert said(store) == {"one": (["good"], "it's \\ good", False), "two": (["good"], "", True)}
    listed = call("--store", database, "--tag", "good")
    assert "one" in listed.stdout
    assert "two" not in listed.stdout
    assert "archived" in listed.stderr
    assert call("tag", "three", "--store", database).exit_code == 1
    assert call("tag", "one", "--add", "not this", "--store", database).exit_code == 1


def test_what_is_said_outlives_rows_of_who_trains(store: Store, database: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, "one")
    load_run(store, run)
    call("tag", "one", "--add", "good", "--store", database)
    row = {"run_id": "one", "status": "running", "env_steps": 7, "written": "2100-01-01T00:00:00Z"}
    store.insert("stored_runs", msgspec.json.encode(row), "JSONEachRow", SETTINGS)
    assert said(store) == {"one": (["good"], "", False)}
    assert int(store.read("SELECT env_steps FROM runs", "TSVRaw")) == 7


def test_run_directories_bring_what_was_said_and_the_newest_counts(store: Store, database: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, "one")
    annotate(run, lambda known: known.with_tags(["local"]).with_note("first"))
    load_run(store, run)
    load_run(store, run)
    assert said(store) == {"one": (["local"], "first", False)}
    call("note", "one", "second", "--store", database)
    load_run(store, run)  # what its directory says is older
    assert said(store) == {"one": (["local"], "second", False)}
    annotate(run, lambda known: known.with_note("third"))
    os.utime(run.annotations, (4e9, 4e9))
    load_run(store, run)
    assert said(store) == {"one": (["local"], "third", False)}


def test_queries_of_chosen_runs_see_theirs(store: Store, database: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        load_run(store, make_run(tmp_path, name))
    call("tag", "one", "two", "--add", "good", "--store", database)
    asked = ["query", "SELECT run_id, tags FROM runs", "--run", "one", "--format", "json", "--store", database]
    done = CliRunner().invoke(main, asked)
    assert msgspec.json.decode(done.stdout) == {"run_id": "one", "tags": ["good"]}


def test_an_older_store_gets_the_table(database: str, tmp_path: Path) -> None:
    from rattle.analytics.store import SCHEMA_VERSION, create_tables, open_store

    with open_store(database) as store:
        create_tables(store)
        store.command("DROP TABLE stored_annotations")
        store.command("ALTER TABLE schema_migrations DELETE WHERE version >= 2 SETTINGS mutations_sync = 1")
        assert create_tables(store) == list(range(2, SCHEMA_VERSION + 1))
        load_run(store, make_run(tmp_path, "one"))
        assert said(store) == {"one": ([], "", False)}


@pytest.mark.parametrize("command", [["tag", "one"], ["note", "one"], ["archive", "one"]])
def test_a_store_that_is_away_is_one_line(command: list[str]) -> None:
    done = call(*command, "--store", "http://127.0.0.1:9/default")
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
