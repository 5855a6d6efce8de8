"""`rattle up` with a Sync service, with small processes in the place of services."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
from itertools import pairwise
from pathlib import Path

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.runs import row
from rattle.launch import launched_run
from rattle.launch.errors import LaunchError
from rattle.launch.processes import Processes
from rattle.launch.ticking import SyncStatus, Ticking, Ticks
from rattle.launch.up import launch
from rattle.launch.view import JsonView
from rattle.services.utils.sockets import listen
from rattle.settings.sources import load_settings
from tests.launch.test_processes import FAKE
from tests.launch.test_up import begin, lines, logs, run, until

pytestmark = pytest.mark.integration

LOCKSTEP = ("--run-dir", "run", "--set", "sync=lockstep", "--set", "train.steps=null")


def read_ticks(history: Path) -> list[int]:
    return [json.loads(line)["tick"] for line in history.read_text().splitlines()]


def test_a_run_is_finished_when_its_ticks_are_over(tmp_path: Path) -> None:
    status, out, err = run("--json", *LOCKSTEP, "--set", "sync.ticks=600", cwd=tmp_path)
    assert (status, err) == (0, "")
    shown = lines(out)
    assert shown[-1]["status"] == "finished"
    assert row(RunDirectory(tmp_path / "run"))["status"] == "finished"
    ticks = [line for line in shown if line["event"] == "ticks"]
    assert ticks
    assert all(0 < line["tick"] <= 600 and line["ticks_per_second"] == 400 for line in ticks)
    assert read_ticks(tmp_path / "run" / "history.jsonl") == list(range(1, 601))
    notes = (tmp_path / "run" / "notes.txt").read_text().splitlines()
    started = [note.split()[0] for note in notes if " started " in note]
    assert started.index("sync") < started.index("env") < started.index("inference")
    ended = [note for note in notes if note.endswith("stopped")]
    assert ended[0] == "training stopped"
    assert sorted(ended[1:]) == ["env stopped", "inference stopped", "sync stopped"]


def test_a_key_that_is_not_there_is_one_line_and_leaves_no_run_behind(tmp_path: Path) -> None:
    status, out, err = run(*LOCKSTEP, "--set", "sync.key_file=no.key", cwd=tmp_path)
    assert (status, out) == (1, "")
    made = "make one with: (umask 077; head -c 32 /dev/urandom > no.key)"
    assert err == f"Error: sync.key_file: there is no no.key; {made}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_sync_service_may_be_killed_too(tmp_path: Path) -> None:
    process = begin("--json", *LOCKSTEP, "--set", "sync.ticks=1500", cwd=tmp_path)
    until(process, "ticks")
    pid = next(entry["service_pid"] for entry in logs(tmp_path / "run") if entry.get("service") == "sync-0")
    os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0
    assert err == "sync-0: died: ended by signal 9 (Killed)\n"
    assert lines(out)[-1]["status"] == "finished"
    assert read_ticks(tmp_path / "run" / "history.jsonl")[-1] == 1500
    started = [note for note in (tmp_path / "run" / "notes.txt").read_text().splitlines() if "sync started" in note]
    first, again = (note.split() for note in started)
    assert first[first.index("--http-port") + 1] == "0"
    assert again[again.index("--http-port") + 1] != "0"


def test_a_run_that_is_resumed_counts_ticks_anew_and_keeps_the_history_of_before(tmp_path: Path) -> None:
    assert run(*LOCKSTEP, "--set", "sync.ticks=100", cwd=tmp_path)[0] == 0
    for kept in (1, 2):
        assert run("--resume", "run", cwd=tmp_path)[0] == 0
        for name in ("history.jsonl", f"history-{kept}.jsonl"):
            assert read_ticks(tmp_path / "run" / name) == list(range(1, 101))


def test_ticks_and_warnings_of_the_sync_service_are_shown_but_not_while_others_start(tmp_path: Path) -> None:
    settings = (
        *LOCKSTEP,
        "--set",
        "sync.ticks=2000",
        "--set",
        "sync.silence_seconds=0.5",
        "--set",
        "sync.heartbeat_seconds=0.1",
    )
    status, out, err = run(*settings, cwd=tmp_path, sync=["suspects"])
    assert (status, err) == (0, "")
    shown = out.splitlines()
    assert any(line.startswith("tick ") and line.endswith("  ticks/s 400") for line in shown)
    assert any(line.startswith("finished: ") for line in shown)
    warnings = [
        number for number, line in enumerate(shown) if line.startswith("sync-0: inference-0 has not been heard")
    ]
    ready = [number for number, line in enumerate(shown) if ": ready at " in line]
    assert len(ready) == 4
    assert warnings
    assert min(warnings) > max(ready)


def test_in_pace_the_env_services_are_told_the_time_and_a_limit_of_ticks_ends_the_run(tmp_path: Path) -> None:
    settings = ("--set", "sync=pace", "--set", "topology.env=2", "--set", "sync.ticks=400")
    status, out, err = run("--json", "--run-dir", "run", *settings, cwd=tmp_path)
    assert (status, err) == (0, "")
    assert lines(out)[-1]["status"] == "finished"
    notes = (tmp_path / "run" / "notes.txt").read_text().splitlines()
    (sync,) = (note.split() for note in notes if note.startswith("sync started"))
    told = [value for flag, value in pairwise(sync) if flag == "--participant"]
    assert len(set(told)) == 2
    assert all(address.startswith("127.0.0.1:") for address in told)
    assert [note.split()[0] for note in notes].index("sync") >= 2
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_a_fixed_udp_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0, socket.SOCK_DGRAM) as listener:
        port = listener.getsockname()[1]
        settings = ("--set", "topology.ports=fixed", "--set", f"sync.port={port}")
        status, _, err = run(*LOCKSTEP, *settings, cwd=tmp_path)
    assert status == 1
    assert err == f"Error: cannot listen on UDP port {port} of 127.0.0.1: Address already in use; choose another\n"


def test_a_run_without_ticks_fails_where_that_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launched_run, "Processes", functools.partial(Processes, program=FAKE))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "behaviour.json").write_text('{"sync": ["stalls"]}')
    settings = load_settings(None, ["sync=lockstep"])
    words = "no tick has followed tick 0 for 9 seconds: inference-0 is waited for"
    with pytest.raises(LaunchError, match=words):
        launch(settings, tmp_path / "run", JsonView(), patience=9.0)
    assert row(RunDirectory(tmp_path / "run"))["status"] == "failed"
    assert "summary" not in capsys.readouterr().out


def test_ticks_are_timed_from_the_first_to_the_newest() -> None:
    ticking = Ticking()
    assert (ticking.now, ticking.seconds, ticking.finished) == (None, 0.0, False)
    ticking.take(SyncStatus(), 1.0)
    assert (ticking.now, ticking.newest_seen) == (None, None)
    for tick, now in ((3, 2.0), (9, 4.0), (9, 7.0)):
        ticking.take(SyncStatus(tick=tick, ticks_per_second=2.5), now)
    assert ticking.now == Ticks(9, 2.5)
    assert (ticking.seconds, ticking.newest_seen) == (2.0, 4.0)
    ticking.take(SyncStatus(tick=10, finished=True), 8.0)
    assert ticking.finished
