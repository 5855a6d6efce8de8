"""Logs are set up in one call, by arguments or by the environment, and lose nothing however a process ends."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from rattle.events import context, emit, of_runs
from rattle.services.utils.logger import Logs, setup
from tests.services.utils.logging_program import LINES

PROGRAM = (sys.executable, "-m", "tests.services.utils.logging_program")
ROOT = Path(__file__).parents[3]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def state() -> tuple[object, ...]:
    root = logging.getLogger()
    signals = tuple(map(signal.getsignal, (signal.SIGTERM, signal.SIGHUP)))
    hooks = (warnings.showwarning, sys.excepthook, threading.excepthook)
    return list(root.handlers), root.level, signals, hooks, (context.service, context.run_id, context.experiment)


def tell_all(logs: Logs) -> None:
    emit(of_runs.WorldsLost(error="the server is gone"))
    emit(of_runs.RunStarted(seed=7))
    logging.getLogger("library").error("a %s failed", "thing")
    logging.info({"event": "goal_reached", "goal": "shelf"})
    assert logs.flush(60)


def test_the_file_has_everything_from_info_on_and_close_undoes_all(tmp_path: Path) -> None:
    before = state()
    logs = setup("tool", file=tmp_path / "a.jsonl", experiment="mine", run_id="r", console="none", environ={})
    tell_all(logs)
    logging.getLogger("library").debug("too much")
    logs.close()
    assert state() == before
    emit(of_runs.RunStarted(seed=8))
    lines = lines_of(tmp_path / "a.jsonl")
    told = [(line["event"], line["level"], line["message"], line["fields"]) for line in lines]
    assert told == [
        ("worlds_lost", "WARNING", "the server is gone", {"error": "the server is gone"}),
        ("run_started", "INFO", "the run begins, with seed 7", {"seed": 7}),
        ("log", "ERROR", "library: a thing failed", {"logger": "library", "message": "a thing failed"}),
        ("goal_reached", "INFO", "goal=shelf", {"goal": "shelf"}),
    ]
    assert {(line["service"], line["experiment"], line["run_id"], line["pid"]) for line in lines} == {
        ("tool", "mine", "r", os.getpid())
    }
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", line["time"]) for line in lines)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"LOG_FORMAT": "brief"}, r"Warning: the server is gone\nError: library: a thing failed\n"),
        (
            {"LOG_FORMAT": "text"},
            r"[\d-]{10} [\d:]{8} WARNING env-7: the server is gone\n[\d-]{10} [\d:]{8} ERROR   env-7: library: .*\n",
        ),
        ({"LOG_FORMAT": "none"}, ""),
        ({"LOG_FORMAT": "brief", "LOG_LEVEL": "error"}, r"Error: library: a thing failed\n"),
        ({"LOG_FORMAT": "JSON", "LOG_LEVEL": "info"}, r'(\{"time":".*\}\n){4}'),
        ({}, r'(\{"time":".*\}\n){2}'),
    ],
)
def test_the_console_shows_what_the_environment_asks_for(
    environ: dict[str, str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = setup("tool", environ={"SERVICE_NAME": "env-7", **environ})
    try:
        tell_all(logs)
    finally:
        logs.close()
    assert re.fullmatch(expected, capsys.readouterr().err)


def test_a_console_that_there_is_not_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    logs = setup("tool", console="xml", environ={})  # type: ignore[arg-type]
    logs.close()
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["fields"]["place"] == "console"


def test_what_is_wrong_in_the_environment_is_an_event_and_everything_else_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    environ = {
        "LOG_LEVEL": "loud",
        "LOG_FORMAT": "xml",
        "LOG_FILE": str(tmp_path / "file" / "a.jsonl"),
        "RUN_DIR": str(tmp_path),
    }
    logs = setup("tool", console="json", environ=environ)
    try:
        tell_all(logs)
    finally:
        logs.close()
    entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    places = [entry["fields"]["place"] for entry in entries if entry["event"] == "log_not_written"]
    assert sorted(places) == sorted(["LOG_LEVEL", "LOG_FORMAT", str(tmp_path), environ["LOG_FILE"]])
    assert [entry["event"] for entry in entries if entry["event"] != "log_not_written"] == ["worlds_lost", "log"]


def test_a_run_directory_gets_rows(tmp_path: Path) -> None:
    environ = {"RUN_DIR": str(tmp_path), "RUN_ID": "r", "SERVICE_NAME": "env-0", "EXPERIMENT_NAME": "mine"}
    logs = setup("env", console="none", environ=environ)
    tell_all(logs)
    logs.close()
    rows = lines_of(tmp_path / "logs" / "env-0.jsonl")
    assert [row["event"] for row in rows] == ["worlds_lost", "run_started", "log", "goal_reached"]
    assert {(row["run_id"], row["experiment"], row["service"]) for row in rows} == {("r", "mine", "env-0")}


def test_to_set_up_again_undoes_what_was_set_up_before(tmp_path: Path) -> None:
    before = state()
    first = setup("tool", console="none", file=tmp_path / "a.jsonl", environ={})
    second = setup("tool", console="none", file=tmp_path / "b.jsonl", environ={})
    tell_all(second)
    first.close()  # which is over already
    tell_all(second)
    second.close()
    assert state() == before
    assert not (tmp_path / "a.jsonl").exists()
    assert len(lines_of(tmp_path / "b.jsonl")) == 8


def run(way: str, folder: Path, **more: Any) -> list[dict[str, Any]]:
    """Run the program and return what its file has."""
    file = folder / "log.jsonl"
    environ = {**os.environ, "LOG_FILE": str(file), "LOG_FORMAT": "none"} | more.pop("env", {})
    done = subprocess.run([*PROGRAM, way], cwd=ROOT, env=environ, check=False, timeout=120, **more)
    assert done.returncode == {"terminate": -signal.SIGTERM, "crash": 1}.get(way, 0)
    return lines_of(file)


@pytest.mark.parametrize("way", ["end", "terminate", "fork", "fork_anew", "thread", "shutdown", "interrupt"])
def test_each_line_is_there_once_however_the_process_ends(way: str, tmp_path: Path) -> None:
    lines = run(way, tmp_path)
    assert sorted(line["fields"]["number"] for line in lines if line["event"] == "log") == list(range(LINES))
    assert not [line for line in lines if line["event"] == "events_dropped"]


def test_errors_that_nobody_caught_and_warnings_are_events_without_secrets(tmp_path: Path) -> None:
    told = {line["event"] + line["fields"].get("where", ""): line for line in run("crash", tmp_path)}
    assert told["python_warning"]["fields"]["category"] == "UserWarning"
    assert "hunter2" not in json.dumps(told)
    main = told["crashedthe main thread"]
    assert main["message"] == "internal error in the main thread: RuntimeError: the wheels came off"
    assert main["fields"]["exception"]["frames"][-1]["function"] == "crash"
    assert told["crashedthe thread worker"]["fields"]["exception"]["type"] == "ZeroDivisionError"


def test_a_console_that_is_closed_or_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    loud = {"LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG", "PYTHONPATH": str(ROOT)}
    for name, command in (("closed", "exec 2>&-; "), ("full", "exec 2>/dev/full; "), ("unread", "")):
        ours, theirs = os.pipe()
        (tmp_path / name).mkdir()
        file = tmp_path / name / "log.jsonl"
        environ = {**os.environ, **loud, "LOG_FILE": str(file)}
        script = f"{command}exec {' '.join(PROGRAM)} end"
        done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environ, stderr=theirs, check=False, timeout=120)
        assert done.returncode == 0, name
        assert sum(line["event"] == "log" for line in lines_of(file)) == LINES, name
        os.close(theirs)
        os.close(ours)
