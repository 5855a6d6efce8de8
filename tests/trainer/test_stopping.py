"""A hang-up ends a run like other signals, and a slow disk is asked for fewer checkpoints."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rattle.analytics.run_directory import RunDirectory, find_run
from rattle.launch.up import resume
from rattle.runs.checkpoint import list_checkpoints
from rattle.runs.errors import RunError
from rattle.runs.progress import Summary
from rattle.runs.run_clock import RunClock, RunLimits
from rattle.runs.run_tables import read_run_row
from tests.trainer.conftest import RATTLE

TrainSmall = Callable[..., tuple[Summary, RunDirectory]]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that clocks read."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_checkpoints_take_a_small_share_of_the_processor(now: list[float]) -> None:
    clock = RunClock(0.0, RunLimits(None, None), 0.5)
    now[0] += 1
    assert clock.checkpoint_due(0.0, 0.0)
    now[0] += 19
    assert not clock.checkpoint_due(seconds=2.0, cost=2.0)
    now[0] += 1
    assert clock.checkpoint_due(seconds=2.0, cost=2.0)


def test_no_checkpoint_is_begun_that_the_end_would_have_to_wait_for(now: list[float]) -> None:
    clock = RunClock(0.0, RunLimits(None, 10.0), 0.5)
    now[0] += 8.5
    assert not clock.checkpoint_due(seconds=2.0, cost=0.01)
    assert clock.checkpoint_due(seconds=1.0, cost=0.01)


@pytest.mark.integration
@pytest.mark.parametrize(("ignored", "status"), [(False, "interrupted"), (True, "finished")])
def test_a_hang_up_ends_a_run_with_a_checkpoint_unless_it_is_ignored(
    tmp_path: Path, ignored: bool, status: str
) -> None:
    command = [*RATTLE, "train", "--json", "--run-dir", "run", "--seconds", "3" if ignored else "60"]
    shell = ["nohup", *command] if ignored else command
    with subprocess.Popen(shell, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()  # training has begun
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=240)
    assert process.returncode == 0
    assert read_run_row(RunDirectory(tmp_path / "run"))["status"] == status


def test_the_latest_run_is_the_one_that_was_started_last(train_small: TrainSmall) -> None:
    (_, first), (_, second) = train_small(), train_small()
    first.config.touch()
    assert find_run("latest", first.path.parent).path == second.path


def test_up_finds_a_damaged_checkpoint_before_it_starts_services(train_small: TrainSmall) -> None:
    _, directory = train_small()
    newest = list_checkpoints(directory)[-1]
    newest.write_bytes(b"damaged")
    before = sorted(directory.path.rglob("*"))
    with pytest.raises(RunError, match=newest.name):
        resume(str(directory.path), None, None, kill_every=None, as_json=True)
    assert [path for path in sorted(directory.path.rglob("*")) if "lock" not in path.name] == [
        path for path in before if "lock" not in path.name
    ]
