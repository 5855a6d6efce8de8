"""Training whose worlds are in worker processes: the same policies, and what becomes of a run whose workers die."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.envs.errors import EnvironmentFailed
from rattle.runs.checkpoint import list_checkpoints
from rattle.runs.progress import Summary
from rattle.trainer import loop
from rattle.trainer.train import resume
from rattle.workers.process import Worker
from tests.trainer.conftest import RATTLE, Silence, read_rows, train_small
from tests.workers.conftest import TROUBLE

__all__ = ["train_small"]

TrainSmall = Callable[..., tuple[Summary, RunDirectory]]
CLOCKS = ("time", "run_id", "seconds", "env_steps_per_second")

EXPERIMENTS = {
    "cartpole": ["env={id: 'gym:CartPole-v1', worlds: 6}", "train.steps=2400"],
    "party, in episodes": [
        "env={id: 'pettingzoo:tests.envs.parallel_party', worlds: 5, limit: 25}",
        "algorithm={id: reinforce, max_episode_ticks: 64}",
        "train.steps=2400",
    ],
}


@pytest.mark.integration
@pytest.mark.parametrize("overrides", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_the_policy_is_the_same_for_any_number_of_processes(train_small: TrainSmall, overrides: list[str]) -> None:
    one, directory = train_small(*overrides, "env.processes=1")
    assert one.updates > 2
    for processes in (2, 3):
        many, other = train_small(*overrides, f"env.processes={processes}")
        assert many.policy_sha256 == one.policy_sha256
        assert other.policy.read_bytes() == directory.policy.read_bytes()
        for table in ("episodes", "updates"):
            assert read_rows(other, table, *CLOCKS) == read_rows(directory, table, *CLOCKS)


def test_a_run_goes_on_in_another_number_of_processes(train_small: TrainSmall) -> None:
    whole, _ = train_small(*EXPERIMENTS["cartpole"], "env.processes=1")
    _, directory = train_small(*EXPERIMENTS["cartpole"], "env.processes=3", "train.steps=800")
    config = directory.config.read_text()
    assert "processes: 3" in config
    for processes, steps in ((1, 1600), (2, whole.env_steps)):
        directory.config.write_text(config.replace("processes: 3", f"processes: {processes}"))
        resumed = resume(str(directory.path), steps, None, Silence())
    assert resumed.policy_sha256 == whole.policy_sha256


def test_a_run_whose_workers_die_goes_on_with_new_episodes(
    train_small: TrainSmall, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = Worker.step, iter(range(10**9))

    def step_or_die(worker: Worker) -> None:
        if next(steps) in (100, 500):
            os.kill(worker.pid, signal.SIGKILL)
        step(worker)

    monkeypatch.setattr(Worker, "step", step_or_die)
    summary, directory = train_small(*EXPERIMENTS["cartpole"], "env.processes=2")
    assert summary.status == "finished"
    lost = [json.loads(row["fields"]) for row in read_rows(directory, "logs") if row["event"] == "worlds_lost"]
    assert len(lost) == 2
    assert "'gym:CartPole-v1'" in lost[0]["error"]
    assert "was killed by SIGKILL: new episodes begin" in lost[0]["error"]


def test_a_run_whose_workers_die_again_and_again_fails_with_all_that_was_learnt(
    train_small: TrainSmall, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loop, "MOST_LOSSES", 3)
    step, steps = Worker.step, iter(range(10**9))

    def step_or_die(worker: Worker) -> None:
        if next(steps) > 400:
            os.kill(worker.pid, signal.SIGKILL)
        step(worker)

    monkeypatch.setattr(Worker, "step", step_or_die)
    frequent = ("algorithm.ticks=16", "train.checkpoint_seconds=1000")
    with pytest.raises(EnvironmentFailed, match="lost 3 times in a row, the last: 'gym:CartPole-v1'"):
        train_small(*EXPERIMENTS["cartpole"], "env.processes=2", *frequent)
    directory = RunDirectory(tmp_path / "run-0")
    row = json.loads(directory.run.read_bytes())
    assert row["status"] == "failed"
    assert row["updates"] == len(read_rows(directory, "updates")) > 2
    assert str(row["updates"]) in list_checkpoints(directory)[-1].name
    monkeypatch.setattr(Worker, "step", step)
    resumed = resume(str(directory.path), row["env_steps"] + 500, None, Silence())
    assert resumed.status == "finished"
    assert resumed.updates > row["updates"]


def test_without_a_word_quick_environments_stay_in_this_process(train_small: TrainSmall) -> None:
    _, directory = train_small(*EXPERIMENTS["cartpole"])
    assert "processes: auto" in directory.config.read_text()
    assert "worlds_in_processes" not in {row["event"] for row in read_rows(directory, "logs")}


def _begin(folder: Path, **settings: Any) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a run in two processes, and return it with descriptors of its workers when it has begun."""
    (folder / "my_trouble.py").write_text(dedent(TROUBLE))
    env = {"id": "my_trouble:Trouble", "worlds": 4, "processes": 2, "actions": 1, **settings}
    command = [
        *RATTLE,
        "train",
        "--json",
        "--run-dir",
        "run",
        "--set",
        f"env={json.dumps(env)}",
        "--steps",
        "100000000",
    ]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()  # training has begun
    children = Path(f"/proc/{process.pid}/task")
    pids = {int(pid) for task in children.iterdir() for pid in (task / "children").read_text().split()}
    return process, [os.pidfd_open(pid) for pid in pids if b"rattle" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _wait_for_ends(workers: list[int]) -> None:
    assert len(workers) == 2
    for worker in workers:
        assert select.select([worker], [], [], 60)[0]
        os.close(worker)


@pytest.mark.parametrize("hangs", [False, True], ids=["in the middle of it", "while a world hangs"])
def test_no_worker_outlives_a_run_that_is_killed(tmp_path: Path, hangs: bool) -> None:
    hanging = tmp_path / "hanging"
    os.mkfifo(hanging)
    process, workers = _begin(tmp_path, hangs=str(hanging) if hangs else "")
    if hangs:
        hanging.read_bytes()  # waits until a world hangs
    process.kill()
    process.communicate()
    _wait_for_ends(workers)


def test_ctrl_c_in_a_terminal_ends_a_run_as_ever(tmp_path: Path) -> None:
    process, workers = _begin(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    _wait_for_ends(workers)
    row = json.loads((tmp_path / "run" / "run.json").read_text())
    assert row["status"] == "interrupted"
    assert not [entry for entry in read_rows(RunDirectory(tmp_path / "run"), "logs") if entry["event"] == "worlds_lost"]
