"""Run directories in a store: the same rows, once, however often they are loaded and whatever else brought them."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.query import rows
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.schema import TABLES
from rattle.analytics.store import Store
from rattle.analytics.store.load import SETTINGS, load_run
from rattle.analytics.table_parts import part_file, tail_file
from rattle.cli import main
from rattle.envs.snake.settings import SnakeSettings
from tests.analytics.build import (
    START,
    episode_row,
    evaluation_row,
    make_run,
    record_snake,
    record_steps,
    steps_columns,
    update_row,
    write_rows,
)


def log_row(run: RunDirectory, number: int) -> dict[str, Any]:
    return {
        **{"time": START, "level": "INFO", "service": "train", "event": f"e{number}", "experiment": "snake"},
        **{"run_id": run.path.name, "host": "h", "pid": 7, "fields": f'{{"n":{number}}}'},
    }


def filled(run: RunDirectory, updates: int = 20) -> RunDirectory:
    write_rows(run, "updates", [update_row(run, version) for version in range(1, updates + 1)])
    write_rows(run, "episodes", [episode_row(run, number) for number in range(5 * updates)])
    write_rows(run, "evaluations", [evaluation_row(run, version) for version in range(0, updates, 5)])
    write_rows(run, "logs", [log_row(run, number) for number in range(3)])
    record_snake(run, SnakeSettings(max_steps=5))
    return run


def number(store: Store, statement: str) -> int:
    return int(store.read(statement, "TSVRaw"))


def counts(store: Store) -> dict[str, int]:
    return {table: number(store, f"SELECT count() FROM {table}") for table in TABLES}


def publish(store: Store, table: str, rows: list[dict[str, Any]], **own: Any) -> None:
    """Store rows as ingest does those that came through the broker."""
    lines = msgspec.json.Encoder().encode_lines([{**row, **own} for row in rows])
    store.insert(f"stored_{table}", lines, "JSONEachRow", SETTINGS)


def test_a_run_is_loaded_once(store: Store, tmp_path: Path) -> None:
    run = filled(make_run(tmp_path, config={"seed": 1}))
    expected = {"runs": 1, "updates": 20, "episodes": 100, "evaluations": 4, "steps": 5, "logs": 3}
    for _ in range(2):
        load_run(store, run)
        assert counts(store) == expected
    filled_again = write_rows(run, "updates", [update_row(run, 21)])
    with filled_again.open("ab") as file:
        file.write(b'{"half a row":')
    load_run(store, run)
    assert counts(store) == {**expected, "updates": 21}


def test_what_was_cut_back_goes_from_the_store(store: Store, tmp_path: Path) -> None:
    longer = filled(make_run(tmp_path / "before", "r"), updates=20)
    shorter = filled(make_run(tmp_path / "after", "r"), updates=12)
    load_run(store, longer)
    load_run(store, shorter)
    assert counts(store)["updates"] == 12
    assert number(store, "SELECT max(policy_version) FROM evaluations") == 10


def test_a_run_that_came_through_the_broker_counts_once(store: Store, tmp_path: Path) -> None:
    run = filled(make_run(tmp_path, "r"))
    updates = [update_row(run, version) for version in range(1, 21)]
    publish(store, "lives", [{"run_id": "r", "life": 0, "after_update": 0, "time": START}])
    publish(store, "updates", updates[:15], life=0)
    publish(store, "lives", [{"run_id": "r", "life": 1, "after_update": 10, "time": START}])
    publish(store, "updates", [{**row, "entropy": 0.5} for row in updates[10:]], life=1)
    publish(store, "logs", [log_row(run, 0)], writer="w", number=0)
    load_run(store, run)
    expected = {"runs": 1, "updates": 20, "episodes": 100, "evaluations": 4, "steps": 5, "logs": 3}
    assert counts(store) == expected
    second_life = store.read("SELECT min(policy_version) AS first, count() AS n FROM updates WHERE entropy = 0.5")
    assert msgspec.json.decode(second_life) == {"first": 11, "n": 10}


def test_what_the_broker_has_not_brought_counts_and_is_no_double_when_it_comes(store: Store, tmp_path: Path) -> None:
    run = filled(make_run(tmp_path, "r"))
    updates = [update_row(run, version) for version in range(1, 21)]
    for life, after_update in enumerate((0, 10, 5)):
        publish(store, "lives", [{"run_id": "r", "life": life, "after_update": after_update, "time": START}])
    publish(store, "updates", [{**row, "entropy": 0.5} for row in updates[:12]], life=0)
    publish(store, "updates", [{**row, "entropy": 0.25} for row in updates[10:]], life=1)
    expected = {"runs": 1, "updates": 20, "episodes": 100, "evaluations": 4, "steps": 5, "logs": 3}
    for _ in range(2):
        load_run(store, run)
        assert counts(store) == expected
        assert number(store, "SELECT countIf(entropy IN (0.5, 0.25)) FROM updates") == 0
    publish(store, "updates", [{**row, "entropy": 0.125} for row in updates[5:]], life=2)
    assert counts(store) == expected
    assert number(store, "SELECT countIf(entropy = 0.125) FROM updates") == 15


@pytest.mark.parametrize("broker_is_first", [True, False])
def test_what_spans_two_lives_counts_once(store: Store, tmp_path: Path, broker_is_first: bool) -> None:
    """An episode and an evaluation that begin before the update with which a run goes on, and end after it."""
    run = make_run(tmp_path, "r")
    versions = [9, 9, 10, 10]
    record_steps(run, steps_columns(run, 4, policy_version=np.array(versions)))
    write_rows(run, "evaluations", [evaluation_row(run, 10)])
    for life, after_update in enumerate((0, 10)):
        publish(store, "lives", [{"run_id": "r", "life": life, "after_update": after_update, "time": START}])

    def bring() -> None:
        keys = ({"run_id": "r", "tick": tick, "policy_version": version} for tick, version in enumerate(versions))
        publish(store, "steps", list(keys), life=1, made_by=11)
        publish(store, "evaluations", [evaluation_row(run, 10)], life=1, made_by=12)

    for step in (bring, lambda: load_run(store, run)) if broker_is_first else (lambda: load_run(store, run), bring):
        step()
        found = counts(store)
        assert (found["steps"], found["evaluations"]) == (4, 1)


def test_starts_of_a_run_are_told_by_its_log_or_by_the_broker(store: Store, tmp_path: Path) -> None:
    run = filled(make_run(tmp_path, "r"))
    starts = [("run_started", '{"seed":1}'), ("run_resumed", '{"update":10}'), ("run_resumed", '{"update":5}')]
    told = [
        {**log_row(run, 0), "event": event, "fields": fields, "time": START + timedelta(hours=hour)}
        for hour, (event, fields) in enumerate(starts)
    ]
    write_rows(run, "logs", told)
    load_run(store, run)
    asked = "SELECT life, after_update, updates_made, updates_that_count FROM run_lives ORDER BY life"
    found = [tuple(row.values()) for row in rows(asked, [run])]
    assert found == [(0, 0, None, 5), (1, 10, None, 0), (2, 5, None, 15)]
    assert [tuple(row.values()) for row in msgspec.json.Decoder().decode_lines(store.read(asked))] == found
    publish(store, "lives", [{"run_id": "r", "life": 0, "after_update": 0, "time": START}])
    assert store.read(asked, "CSV") == b"0,0,20,20\n"


class Rolling:
    """A store into which a run's rows of `updates` are closed as a part, each time that some of them are stored."""

    def __init__(self, store: Store, run: RunDirectory) -> None:
        self._store = store
        self._folder = run.table("updates")
        self._more = [update_row(run, version) for version in (5, 6, 7)]

    def insert(self, table: str, *arguments: Any) -> None:
        if table == "stored_updates" and self._more:
            tail = tail_file(self._folder, "train")
            end = sum(path.stat().st_size for path in self._folder.iterdir())
            tail.replace(part_file(self._folder, "train", end - tail.stat().st_size, end))
            tail.write_bytes(msgspec.json.encode(self._more.pop(0)) + b"\n")
        self._store.insert(table, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_run_that_closes_parts_meanwhile_loses_no_rows(store: Store, tmp_path: Path) -> None:
    run = make_run(tmp_path, "r")
    write_rows(run, "updates", [update_row(run, version) for version in (1, 2)])
    tail_file(run.table("updates"), "train").replace(part_file(run.table("updates"), "train", 0, 1))
    write_rows(run, "updates", [update_row(run, version) for version in (3, 4)])
    load_run(store, run)
    load_run(Rolling(store, run), run)  # type: ignore[arg-type]
    assert number(store, "SELECT count() FROM updates WHERE policy_version <= 4") == 4


def test_rows_that_do_not_fit_are_named(store: Store, tmp_path: Path) -> None:
    run = make_run(tmp_path, "r")
    path = write_rows(run, "logs", [log_row(run, 0), {**log_row(run, 1), "of_later_versions": 1}])
    with pytest.raises(AnalyticsError, match=rf"{path} cannot be stored: Unknown field .* of_later_versions \(row 2\)"):
        load_run(store, run)


def test_the_command_loads_folders_of_runs(database: str, store: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        filled(make_run(tmp_path / "runs", name))
    shutil.copytree(tmp_path / "runs" / "a", tmp_path / "runs" / "copy")
    (tmp_path / "runs" / "b" / "updates" / "train.jsonl").write_bytes(b"not a row\n")
    ended = CliRunner().invoke(main, ["ingest", str(tmp_path / "runs"), "--store", database])
    assert ended.exit_code == 1
    assert f"loaded {tmp_path}/runs/a\n" in ended.stdout
    assert "copy is left out: it holds the same run" in ended.stderr
    assert f"{tmp_path}/runs/b/updates/train.jsonl cannot be stored: Cannot parse" in ended.stderr
    assert counts(store)["updates"] == 20


def test_what_the_command_lacks_is_said(database: str, tmp_path: Path) -> None:
    run = str(filled(make_run(tmp_path)).path)
    for arguments, said in (
        ([run], "name the store with --store"),
        ([str(tmp_path / "nothing"), "--store", database], "there is no run in"),
        ([run, "--store", database], "has no tables yet"),
    ):
        ended = CliRunner().invoke(main, ["ingest", *arguments])
        assert ended.exit_code != 0
        assert said in ended.stderr
