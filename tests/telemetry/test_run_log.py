"""The table `logs` of a run gets the events of the run, once, and not those of other runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.events import About, context, emit, of_runs, of_services
from rattle.telemetry.pipe import pipe
from rattle.telemetry.run_log import open_run_log


def rows_of(folder: Path, writer: str = "train") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "logs" / f"{writer}.jsonl").read_text().splitlines()]


def test_runs_of_one_process_have_their_own_rows_and_what_is_of_none_is_the_first_ones(tmp_path: Path) -> None:
    first = open_run_log(RunDirectory(tmp_path / "a"), "train", "run-a", "mine")
    other = open_run_log(RunDirectory(tmp_path / "b"), "train", "run-b", "mine")
    emit(of_runs.RunStarted(seed=1), about=About("run-a"))
    emit(of_runs.RunStarted(seed=2), about=About("run-b", quiet=True))
    emit(of_services.Stopped())
    other()
    first()
    emit(of_runs.RunStarted(seed=3), about=About("run-a"))
    seen = {folder: [(row["run_id"], row["event"]) for row in rows_of(tmp_path / folder)] for folder in "ab"}
    assert seen == {"a": [("run-a", "run_started"), ("run-a", "stopped")], "b": [("run-b", "run_started")]}
    assert json.loads(rows_of(tmp_path / "a")[0]["fields"]) == {"seed": 1}
    assert rows_of(tmp_path / "a")[1]["experiment"] == "mine"
    assert (context.run_id, context.experiment) == ("", "")


def test_a_run_that_is_opened_twice_has_each_event_once(tmp_path: Path) -> None:
    process = open_run_log(RunDirectory(tmp_path), "training-0", "run-a", "mine")
    run = open_run_log(RunDirectory(tmp_path), "train", "run-a", "mine")
    emit(of_runs.RunStarted(seed=1), about=About("run-a"))
    run()
    emit(of_services.Stopped())
    process()
    assert [row["event"] for row in rows_of(tmp_path, "training-0")] == ["run_started", "stopped"]
    assert not (tmp_path / "logs" / "train.jsonl").exists()


def test_a_full_disk_costs_rows_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close = open_run_log(RunDirectory(tmp_path), "train", "run-a", "mine")
    monkeypatch.setattr("rattle.telemetry.pipe._REST_SECONDS", 0.0)
    with monkeypatch.context() as full:
        full.setattr("rattle.analytics.table_writer.TableWriter._append", _refuse)
        emit(of_runs.RunStarted(seed=1))
        pipe.flush(60)
    emit(of_runs.RunStarted(seed=2))
    close()
    rows = rows_of(tmp_path)
    assert [json.loads(row["fields"]).get("seed") for row in rows if row["event"] == "run_started"] == [2]
    assert [json.loads(row["fields"])["missing"] for row in rows if row["event"] == "log_written_again"] == [2]


def _refuse(_writer: object) -> None:
    raise OSError(28, "No space left on device")
