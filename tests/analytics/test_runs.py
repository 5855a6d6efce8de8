"""The table of runs says what is known and what became of each."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from rattle.analytics.run_directory import RunDirectory, find_run
from rattle.analytics.runs import directory_rows, json_lines, row, table
from rattle.analytics.schema import RUNS
from tests.analytics.build import START, make_run


def test_a_row_has_every_column(run: RunDirectory) -> None:
    known = row(run)
    assert list(known) == list(RUNS)
    assert known["started"] == START
    assert known["mean_return"] == 38.25


def test_a_run_is_running_while_its_process_lives(tmp_path: Path) -> None:
    run = make_run(tmp_path, status="running")
    assert row(run)["status"] == "interrupted"
    with run.locked():
        assert row(run)["status"] == "running"
    assert row(make_run(tmp_path, "failed", status="failed"))["status"] == "failed"


def test_a_run_that_has_only_begun_is_listed(run: RunDirectory) -> None:
    run.run.unlink()
    known = row(run)
    assert (known["run_id"], known["status"], known["env_steps"]) == (run.path.name, "interrupted", None)
    assert run.path.name in table(directory_rows([run]))


@pytest.mark.parametrize(
    "content", [b"", b'{"run_id": "x', b"\xff\xfe", b'{"run_id": "\xff"}', b"[]", b'{"env_steps": "many"}']
)
def test_a_damaged_row_does_not_hide_the_others(tmp_path: Path, content: bytes) -> None:
    damaged, sound = make_run(tmp_path, "a"), make_run(tmp_path, "b")
    damaged.run.write_bytes(content)
    lines = table(directory_rows([damaged, sound])).splitlines()
    assert lines[1].split()[:4] == ["a", "-", "-", "damaged"]
    assert lines[2].split()[:4] == ["b", "snake", "a2c", "finished"]
    assert find_run("latest", tmp_path).path == sound.path


def test_the_table_is_aligned(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "short"), make_run(tmp_path, "much-longer", env_steps=1, mean_return=None)]
    short, longer = (run.path for run in runs)
    place, began, started = "directory", "started (UTC)", "2026-01-02 03:04:05"
    assert table(directory_rows(runs)) == "\n".join(
        [
            f"run_id       environment  algorithm  status    env_steps  steps/s  mean return  {began}        {place}",
            f"short        snake        a2c        finished  3,500,000   58,333        38.25  {started}  {short}",
            f"much-longer  snake        a2c        finished          1   58,333            -  {started}  {longer}",
        ]
    )


def test_no_row_steers_a_terminal(tmp_path: Path) -> None:
    strange = dict.fromkeys(("run_id", "environment", "algorithm", "status"), "a\x1b[31m\nb")
    shown = table(directory_rows([make_run(tmp_path, **strange)]))
    assert shown.count("a [31m b") == 4
    assert "\x1b" not in shown


def test_no_runs_give_a_heading_only() -> None:
    assert table([]).startswith("run_id  environment")
    assert json_lines([]) == ""


def test_json_lines_hold_the_whole_row_and_the_directory(run: RunDirectory) -> None:
    (line,) = json_lines(directory_rows([run])).splitlines()
    known = msgspec.json.decode(line)
    assert list(known) == [*RUNS, "directory"]
    assert known["directory"] == str(run.path)
    assert known["started"] == "2026-01-02T03:04:05.678901Z"


def test_the_settings_are_those_of_the_row_or_of_config_yaml(tmp_path: Path) -> None:
    old, new = make_run(tmp_path, "old"), make_run(tmp_path, "new", config={"seed": 7})
    assert row(old)["config"]["env"]["id"] == "snake"
    assert row(new)["config"] == {"seed": 7}
    old.config.write_text("{")
    assert row(old)["config"] == {}


def test_names_that_are_not_utf_8_are_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path / os.fsdecode(b"gr\xfcn"), "run")
    run.run.write_bytes(b"{}")
    assert "gr\\udcfcn" in msgspec.json.decode(json_lines(directory_rows([run])))["directory"]
    table(directory_rows([run])).encode()
