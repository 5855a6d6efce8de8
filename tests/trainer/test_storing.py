"""A slow or failing disk: training does not wait for it, and what it holds at last is exact."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory
from rattle.rollouts.complete import complete
from rattle.runs.checkpoint import list_checkpoints
from rattle.runs.progress import Progress, Summary
from rattle.runs.run_tables import read_run_row
from rattle.trainer.train import resume, train
from tests.trainer.conftest import Silence, last_json, read_rows, small_settings

pytestmark = pytest.mark.integration

TrainSmall = Callable[..., tuple[Summary, RunDirectory]]

SECONDS = 60.0  # that a test waits before it fails


class Counting(Silence):
    """Opens a gate after some updates."""

    def __init__(self, gate: threading.Event, updates: int) -> None:
        super().__init__()
        self._gate, self._updates = gate, updates

    def update(self, progress: Progress) -> None:
        super().update(progress)
        if len(self.progress) == self._updates:
            self._gate.set()


def is_storing() -> bool:
    return any(thread.name.startswith("checkpoints") for thread in threading.enumerate())


def test_learning_goes_on_while_a_checkpoint_is_brought_to_the_disk(
    train_small: TrainSmall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, whole_directory = train_small()
    gate, waited, fsync = threading.Event(), list[bool](), os.fsync

    def slow(descriptor: int) -> None:
        if is_storing():
            waited.append(gate.wait(SECONDS))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    directory = RunDirectory(tmp_path / "slow")
    summary = train(complete(small_settings("train.checkpoint_seconds=0.001")), directory.path, Counting(gate, 8))
    assert waited
    assert all(waited)
    assert summary.policy_sha256 == whole.policy_sha256 == read_run_row(directory)["policy_sha256"]
    clocks = ("time", "run_id", "seconds", "env_steps_per_second")
    for table in ("episodes", "updates"):
        assert read_rows(directory, table, *clocks) == read_rows(whole_directory, table, *clocks)


@pytest.mark.parametrize("fails", [1, 20])
def test_a_checkpoint_that_the_disk_refuses_ends_the_run_with_its_error(
    train_small: TrainSmall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    whole, _ = train_small()
    syncs, fsync = 0, os.fsync

    def refuse(descriptor: int) -> None:
        nonlocal syncs
        syncs += is_storing()
        if syncs >= fails:
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    directory = RunDirectory(tmp_path / "refused")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(AnalyticsError, match=r"cannot write .*Input/output error"):
            train(complete(small_settings("train.checkpoint_seconds=0.001")), directory.path, Silence())
    assert not list(directory.path.rglob(".*.safetensors"))
    assert resume(str(directory.path), None, None, Silence()).policy_sha256 == whole.policy_sha256


SLOW_DISK = """
import os, sys, time
fsync = os.fsync
def slow(descriptor):
    time.sleep(0.1)
    fsync(descriptor)
os.fsync = slow
from rattle.cli import main
main()
"""


@pytest.mark.whole(suite="slow")
def test_kill_9_on_a_slow_disk_loses_nothing(train_small: TrainSmall, tmp_path: Path) -> None:
    whole, _ = train_small("train.steps=150000")
    sets = ["env.worlds=24", "policy.hidden_sizes=[16]", "record.every_episodes=2", "train.steps=150000"]
    settings = [part for setting in [*sets, "train.checkpoint_seconds=0.2"] for part in ("--set", setting)]
    arguments = ["--run-dir", "killed", *settings]
    directory = RunDirectory(tmp_path / "killed")
    for _ in range(2):
        before = list_checkpoints(directory)
        process = start_on_a_slow_disk(arguments, tmp_path)
        while list_checkpoints(directory) == before and process.poll() is None:
            time.sleep(0.01)
        process.kill()  # the checkpoint after is on its way to the disk
        process.communicate()
        arguments = ["--resume", "killed"]
    last = start_on_a_slow_disk(arguments, tmp_path)
    output, _ = last.communicate(timeout=SECONDS)
    assert last.returncode == 0
    assert last_json(output)["policy_sha256"] == whole.policy_sha256
    assert not [path for path in directory.path.rglob(".*") if "lock" not in path.name]


def start_on_a_slow_disk(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW_DISK, "train", "--json", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
