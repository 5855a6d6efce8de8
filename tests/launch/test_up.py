"""`rattle up` as a user meets it, with small processes in the place of services."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.runs import row
from rattle.runs.progress import Progress, Summary
from rattle.services.utils.sockets import listen
from tests.launch import up_with_fakes
from tests.launch.test_processes import wait_for_end
from tests.template import RattleProcess

pytestmark = pytest.mark.integration

SUMMARY = {"event", *(field.name for field in fields(Summary))}


def begin(*arguments: str | Path, cwd: Path, **ways: list[str]) -> RattleProcess:
    return begin_with_fakes("up", *arguments, cwd=cwd, ways=ways)


def begin_with_fakes(
    *arguments: str | Path,
    cwd: Path,
    ways: dict[str, list[str]],
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    **variables: str,
) -> RattleProcess:
    """Start a command that launches small processes in the place of services."""
    return RattleProcess(
        *map(str, arguments),
        cwd=cwd,
        env={**os.environ, "BEHAVIOUR": json.dumps(ways), **variables},
        stdout=stdout,
        stderr=stderr,
        program=up_with_fakes.__name__,
    )


def ended(process: RattleProcess) -> tuple[str, str]:
    """Return what a command wrote when it has ended; leaves nothing of one that takes too long."""
    try:
        return process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise


def run(*arguments: str | Path, cwd: Path, **ways: list[str]) -> tuple[int, str, str]:
    process = begin(*arguments, cwd=cwd, **ways)
    out, err = ended(process)
    assert "Traceback" not in out + err
    return process.returncode, out, err


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def logs(directory: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (directory / "logs" / "up.jsonl").read_text().splitlines()]
    return [{"event": entry["event"], **json.loads(entry["fields"])} for entry in rows]


def until(process: RattleProcess, event: str) -> None:
    """Read JSON lines until one of a kind comes."""
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["event"] != event:
        pass


def test_the_lines_and_the_summary_are_those_of_train(tmp_path: Path) -> None:
    status, out, err = run("--json", "--steps", "60000", "--run-dir", "run", cwd=tmp_path)
    assert (status, err) == (0, "")
    first, *between, last = lines(out)
    assert set(first) == {"event", "run_id", "run_dir", "resumed_at_update"}
    assert between
    assert all(set(line) == {"event", *(field.name for field in fields(Progress))} for line in between)
    assert set(last) == SUMMARY
    assert (last["event"], last["status"], last["env_steps"]) == ("summary", "finished", 60_000)
    assert row(RunDirectory(tmp_path / "run"))["status"] == "finished"


def test_chaos_kills_and_the_run_goes_on_to_its_end(tmp_path: Path) -> None:
    status, out, _ = run("--json", "--steps", "500000", "--kill-every", "1s", cwd=tmp_path)
    assert status == 0
    summary = lines(out)[-1]
    assert set(summary) == {*SUMMARY, "kills", "restarts"}
    assert summary["kills"] >= 3
    assert summary["restarts"] >= 1
    events = [entry["event"] for entry in logs(tmp_path / summary["run_dir"])]
    assert events.count("service_killed") == summary["kills"]
    assert events.count("service_restarted") == summary["restarts"]
    assert events.count("service_started") == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_with_a_summary(tmp_path: Path, number: signal.Signals) -> None:
    process = begin("--json", "--run-dir", "run", cwd=tmp_path)
    until(process, "progress")
    os.killpg(process.pid, number)  # as a terminal sends it: to the whole group
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, "")
    assert lines(out)[-1]["status"] == "interrupted"
    stopped = [line for line in (tmp_path / "run" / "notes.txt").read_text().splitlines() if "stopped" in line]
    assert stopped[0] == "training stopped"
    assert sorted(stopped[1:]) == ["env stopped", "inference stopped"]
    assert all(entry["event"] != "service_restarted" for entry in logs(tmp_path / "run"))


def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    process = begin("--json", "--run-dir", "run", cwd=tmp_path, env=["deaf"])
    until(process, "progress")
    assert (tmp_path / "run" / ".token").exists()
    process.send_signal(signal.SIGINT)
    while "inference stopped" not in (tmp_path / "run" / "notes.txt").read_text():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (-signal.SIGINT, "")
    assert "summary" not in out
    assert not (tmp_path / "run" / ".token").exists()
    for entry in logs(tmp_path / "run"):
        if entry["event"] == "service_started":
            wait_for_end(entry["service_pid"])


def test_a_run_that_fails_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    status, out, err = run("--json", "--run-dir", "run", cwd=tmp_path, training=["fail"])
    assert (status, err) == (1, "Error: training has failed: loss is nan in update 3\n")
    assert "summary" not in out
    assert row(RunDirectory(tmp_path / "run"))["status"] == "failed"


def test_an_environment_that_fails_ends_the_run_as_failed(tmp_path: Path) -> None:
    status, out, err = run("--json", "--run-dir", "run", cwd=tmp_path, inference=["lament"])
    said = "main-0: 'line', world 3: step raised ValueError: the arm broke"
    assert (status, err) == (1, f"Error: {said}\n")
    assert "summary" not in out
    assert row(RunDirectory(tmp_path / "run"))["status"] == "failed"
    assert all(entry["event"] != "environment_failed" for entry in logs(tmp_path / "run")), "the service's own row"
    assert logs(tmp_path / "run")[-1] == {"event": "run_failed", "error": said}


def test_a_service_that_cannot_start_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    status, _, err = run("--run-dir", "run", cwd=tmp_path, inference=["refuse"])
    assert (status, err) == (1, "Error: inference-0 cannot start: env.width: must be larger\n")
    assert row(RunDirectory(tmp_path / "run"))["status"] == "failed"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("topology.training=2", "topology.training is 2, but training.policies names 1"),
        ("topology.envs=2", "unknown key 'topology.envs', did you mean 'env'?"),
        ("env.width=0", "width: at least 4 is wanted"),
        ("env={id: 'gym:Nothing-v0', worlds: 2}", "Nothing-v0"),
    ],
)
def test_bad_settings_are_one_line_and_leave_no_run_behind(tmp_path: Path, setting: str, words: str) -> None:
    status, out, err = run("--run-dir", "run", "--set", setting, cwd=tmp_path)
    assert (status, out) == (1, "")
    assert err.startswith("Error: ")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_fixed_port_that_is_taken_is_one_line_and_leaves_no_run_behind(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        free = ("env_service.port=0", "inference.port=0", "inference.grpc_port=0")  # whatever else listens here
        wanted = ("topology.ports=fixed", f"training.port={port}", *free)
        settings = [part for setting in wanted for part in ("--set", setting)]
        status, _, err = run("--run-dir", "run", *settings, cwd=tmp_path)
    assert status == 1
    assert err == f"Error: cannot listen on port {port} of 127.0.0.1: Address already in use; choose another\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.whole(suite="slow")
def test_a_directory_with_a_run_is_refused_and_can_be_resumed(tmp_path: Path) -> None:
    assert run("--steps", "50000", "--run-dir", "run", cwd=tmp_path)[0] == 0
    status, _, err = run("--run-dir", "run", cwd=tmp_path)
    assert (status, err.count("\n")) == (1, 1)
    assert "run holds a run already: resume it with --resume run" in err
    status, out, _ = run("--json", "--resume", "run", "--steps", "90000", cwd=tmp_path)
    first, *_, last = lines(out)
    assert (status, first["resumed_at_update"] > 0, last["env_steps"]) == (0, True, 90_000)


def test_a_run_that_is_launched_already_is_not_launched_again(tmp_path: Path) -> None:
    process = begin("--json", "--run-dir", "run", cwd=tmp_path)
    until(process, "progress")
    status, _, err = run("--resume", "run", cwd=tmp_path)
    assert (status, err.count("\n")) == (1, 1)
    assert "is in use by another process" in err
    process.terminate()
    process.communicate(timeout=240)


def test_seconds_are_those_of_the_command_whatever_dies(tmp_path: Path) -> None:
    process = begin("--json", "--seconds", "3", "--run-dir", "run", cwd=tmp_path)
    until(process, "progress")
    pid = next(entry["service_pid"] for entry in logs(tmp_path / "run") if entry.get("service") == "training-0")
    os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0
    assert err == "training-0: died: ended by signal 9 (Killed)\n"
    assert lines(out)[-1]["status"] == "finished"
    started = [line for line in (tmp_path / "run" / "notes.txt").read_text().splitlines() if "training started" in line]
    assert "train.seconds" not in started[0]
    assert 0 < float(started[1].rpartition("train.seconds=")[2]) < 3


def test_it_goes_on_where_nobody_reads(tmp_path: Path) -> None:
    process = begin("--json", "--steps", "60000", "--run-dir", "run", "--kill-every", "1s", cwd=tmp_path, env=["warn"])
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=240) == 0
    assert row(RunDirectory(tmp_path / "run"))["status"] == "finished"


def test_chaos_is_part_of_the_plain_summary(tmp_path: Path) -> None:
    status, out, _ = run("--steps", "200000", "--kill-every", "1s", cwd=tmp_path)
    assert status == 0
    last = out.splitlines()[-1]
    kills = out.count("killed on purpose")
    assert last.startswith(f"services killed {kills} times, started again ")


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    status, out, err = run("--steps", "50000", "--run-dir", "run", cwd=tmp_path, env=["warn"])
    assert (status, err) == (0, "")
    shown = out.splitlines()
    assert shown[0].startswith("run ")
    assert shown[1] == 'ask its services with: echo "Authorization: Bearer $(cat run/.token)" | curl -H @- URL'
    assert any(line.startswith("env-0: ready at http://127.0.0.1:") for line in shown)
    assert "env-0: no answer: trying again" in shown
    assert any("steps/s 100,000" in line for line in shown)
    assert shown[-1] == "stored in run"


def test_a_run_that_stands_still_says_so_and_fails(tmp_path: Path) -> None:
    patience = ("--set", "topology.patience_seconds=9", "--set", "train.steps=null")
    status, out, err = run("--json", *patience, "--run-dir", "run", cwd=tmp_path, training=["stall"])
    assert status == 1
    assert err == ("Error: nothing has been learnt for 9 seconds: all services are ready: look into run/service-logs\n")
    assert not [line for line in lines(out) if line["event"] == "summary"]
    assert row(RunDirectory(tmp_path / "run"))["status"] == "failed"
    last = [line for line in lines(out) if line["event"] == "progress"][-1]
    assert last["env_steps"] == 20_000
