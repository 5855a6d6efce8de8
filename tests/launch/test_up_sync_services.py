"""`rattle up` with a Sync service and all other real services."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.launch.compare import MemberHistory, first_difference, read_history
from tests.launch.test_processes import PATIENCE, wait_for_end
from tests.launch.test_up_services import running
from tests.trainer.conftest import last_json, rattle

pytestmark = pytest.mark.integration

SETTINGS = ("sync.mode=lockstep", "inference.snakes=2", "topology.inference=2", "env.food=4", "train.steps=null")
LOCKSTEP = tuple(part for setting in SETTINGS for part in ("--set", setting))


def history(directory: RunDirectory) -> MemberHistory:
    return read_history(directory.history.read_bytes(), str(directory.history))


def wait_for_tick(directory: RunDirectory, tick: int) -> None:
    """Wait until a tick is over."""
    deadline = time.monotonic() + PATIENCE
    while not directory.history.exists() or f'"tick":{tick},'.encode() not in directory.history.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_ends_with_its_last_tick_and_is_like_any_other(tmp_path: Path) -> None:
    done = rattle("up", "--json", "--run-dir", "run", *LOCKSTEP, "--set", "sync.ticks=150", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    summary, directory = last_json(done.stdout), RunDirectory(tmp_path / "run")
    assert summary["status"] == "finished"
    assert summary["updates"] >= 1
    said = history(directory)
    assert (said.ticks, sorted(said.newest()), said.contradictions) == (150, ["env-0", "main-0", "main-1"], [])
    query = rattle("query", "--run", "run", "SELECT status, updates FROM runs", "--format", "json", cwd=tmp_path)
    assert msgspec.json.decode(query.stdout)["status"] == "finished"


def test_a_run_whose_sync_service_dies_again_and_again_is_the_same_run(tmp_path: Path) -> None:
    limited = (*LOCKSTEP, "--set", "sync.ticks=200")
    with running(tmp_path, "--run-dir", "run", *limited) as run:
        for tick in (10, 60, 110):
            wait_for_tick(run.directory, tick)
            killed = run.pids()["sync-0"]
            os.kill(killed, signal.SIGKILL)
            while run.pids()["sync-0"] == killed:  # the next tick may have come before this one was seen
                time.sleep(0.05)
        status, err = run.end()
    assert status == 0
    assert err.count("sync-0: died: ended by signal 9 (Killed)") == 3
    again = rattle("up", "--json", "--run-dir", "again", *limited, cwd=tmp_path)
    assert again.returncode == 0
    assert run.summary["policy_sha256"] == last_json(again.stdout)["policy_sha256"]
    one, other = history(run.directory), history(RunDirectory(tmp_path / "again"))
    assert first_difference([one, other]) is None
    assert one.digest() == other.digest()


def newest_tick(directory: RunDirectory, snake: str) -> int:
    """Return the newest tick in which a snake's player has acted: worlds say how snakes stand in the other phase."""
    lines = directory.history.read_bytes().splitlines(keepends=True)
    phases = [msgspec.json.decode(line) for line in lines if line.endswith(b"\n")]
    acted = (said["tick"] for said in phases if said["phase"] == "act" and snake in said["hashes"])
    return max(acted, default=0)


@pytest.mark.parametrize(("silent", "said"), [("drop", "it loses its seat"), ("forward", "it is played on without")])
def test_others_go_on_without_a_silent_member_which_comes_back(tmp_path: Path, silent: str, said: str) -> None:
    more = ("--set", f"sync.silent={silent}", "--set", "sync.silence_seconds=1")
    with running(tmp_path, "--run-dir", "run", *LOCKSTEP, *more) as run:
        wait_for_tick(run.directory, 20)
        stopped = run.pids()["inference-1"]
        os.kill(stopped, signal.SIGSTOP)
        # What it had sent may still come; of a hundred ticks it has no part in the most.
        reached = newest_tick(run.directory, "main-1") + 100
        wait_for_tick(run.directory, reached)
        assert newest_tick(run.directory, "main-1") < reached - 50
        os.kill(stopped, signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE
        while newest_tick(run.directory, "main-1") <= reached:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert run.pids()["inference-1"] == stopped
        run.signal(signal.SIGINT)
        status, err = run.end()
    assert (status, err.count("Error")) == (0, 0)
    # Alike lines of a busy time are shown once: another member may have been silent before.
    log = (run.directory.path / "service-logs" / "sync-0.log").read_text()
    assert f"inference-1 has not been heard for 1 s: {said}" in log


def test_two_worlds_and_two_policies_in_lockstep(tmp_path: Path) -> None:
    more = ("--set", "topology={env: 2, inference: 2, training: 2}", "--set", "training.policies=[main, red]")
    done = rattle("up", "--json", "--run-dir", "run", *LOCKSTEP, *more, "--set", "sync.ticks=100", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    said = history(RunDirectory(tmp_path / "run"))
    assert sorted(said.newest()) == ["env-0", "env-1", "main-0", "main-1", "red-0", "red-1"]
    for name in ("run", "run-red"):
        assert json.loads((tmp_path / name / "run.json").read_text())["status"] == "finished"


def test_in_pace_the_worlds_tick_at_the_frequency_and_go_on_after_deaths(tmp_path: Path) -> None:
    settings = ("sync.mode=pace", "sync.frequency=100", "inference.snakes=2", "train.steps=null")
    given = tuple(part for setting in settings for part in ("--set", setting))
    with running(tmp_path, "--run-dir", "run", *given) as run:
        seen = 0
        for steps in run.progress():
            if steps > seen and seen < 3:
                seen += 1
                if seen < 3:
                    os.kill(run.pids()[("sync-0", "env-0")[seen - 1]], signal.SIGKILL)
            if seen == 3:
                break
        pids = run.pids()
        run.signal(signal.SIGINT)
        status, err = run.end()
    assert status == 0
    assert err.count("died: ended by signal 9 (Killed)") == 2
    assert run.summary["status"] == "interrupted"
    assert not run.directory.history.exists()
    for pid in pids.values():
        wait_for_end(pid)
