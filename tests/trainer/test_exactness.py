"""The same seed and settings give the same policy, whatever happens on the way."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.runs.checkpoint import list_checkpoints
from rattle.runs.progress import Summary
from rattle.runs.run_tables import read_run_row, write_run_row
from rattle.trainer.train import resume
from tests.template import RattleProcess
from tests.trainer.conftest import Silence, last_json, rattle, read_rows

pytestmark = pytest.mark.integration

TrainSmall = Callable[..., tuple[Summary, RunDirectory]]

EXPERIMENTS = {
    "a2c": [],
    "reinforce": ["algorithm.id=reinforce", "algorithm.max_episode_ticks=64", "train.steps=6000"],
    "ppo": ["algorithm={id: ppo, ticks: 16, passes: 2}"],
    "evaluated": ["evaluation={every_steps: 1000, episodes: 5}"],
    "duel": ["env.num_snakes=3", "env.food=2"],
    "cartpole": ["env={id: 'gym:CartPole-v1', worlds: 6}", "train.steps=3000"],
    "pendulum": ["env={id: 'gym:Pendulum-v1', worlds: 4}", "train.steps=3000"],
    "squashed": ["env={id: 'gym:Pendulum-v1', worlds: 4}", "policy.bounds=squash", "train.steps=3000"],
    "party": ["env={id: 'pettingzoo:tests.envs.parallel_party', worlds: 6, limit: 25}", "train.steps=3000"],
    "turns": ["env={id: 'pettingzoo:tests.envs.countdown', worlds: 6, players: 3, leaves: [1]}", "train.steps=3000"],
}


@pytest.mark.parametrize("overrides", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_training_twice_gives_the_same_bytes(train_small: TrainSmall, overrides: list[str]) -> None:
    first, one = train_small(*overrides)
    second, other = train_small(*overrides, "train.actors=3", "record.every_episodes=0", "log.tensorboard=false")
    assert first.policy_sha256 == second.policy_sha256
    assert first.updates == second.updates > 1
    assert one.policy.read_bytes() == other.policy.read_bytes()
    different, _ = train_small(*overrides, "seed=1")
    assert different.policy_sha256 != first.policy_sha256


@pytest.mark.parametrize("overrides", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_a_run_in_pieces_equals_a_run_in_one(train_small: TrainSmall, overrides: list[str]) -> None:
    whole, whole_directory = train_small(*overrides)
    _, directory = train_small(*overrides, "train.steps=1000")
    for steps in (2000, whole.env_steps):
        pieces = resume(str(directory.path), steps, None, Silence())
    assert pieces.policy_sha256 == whole.policy_sha256
    assert pieces.updates == whole.updates
    clocks = ("time", "run_id", "seconds", "env_steps_per_second")
    for table in ("episodes", "updates", "evaluations"):
        assert read_rows(directory, table, *clocks) == read_rows(whole_directory, table, *clocks)
    assert (pieces.mean_return, pieces.episodes) == (whole.mean_return, whole.episodes)


def test_rows_written_after_the_last_checkpoint_are_not_counted_twice(train_small: TrainSmall) -> None:
    whole, whole_directory = train_small()
    _, directory = train_small("train.steps=2000")
    with (directory.table("episodes") / "train.jsonl").open("a") as file:
        file.write('{"episode_id": 999999, "half a li')
    resumed = resume(str(directory.path), whole.env_steps, None, Silence())
    assert resumed.policy_sha256 == whole.policy_sha256
    assert len(read_rows(directory, "episodes")) == len(read_rows(whole_directory, "episodes"))


def test_a_run_killed_before_its_first_checkpoint_starts_again(train_small: TrainSmall) -> None:
    whole, directory = train_small()
    for checkpoint in list_checkpoints(directory):
        checkpoint.unlink()
    write_run_row(directory, {**read_run_row(directory), "updates": 0})
    again = resume(str(directory.path), None, None, Silence())
    assert again.policy_sha256 == whole.policy_sha256
    assert again.run_id == whole.run_id


@pytest.mark.parametrize("display", [["--json"], []], ids=["json", "plain"])
def test_the_display_changes_nothing(train_small: TrainSmall, tmp_path: Path, display: list[str]) -> None:
    silent, _ = train_small()
    settings = ["env.worlds=24", "train.steps=4608", "policy.hidden_sizes=[16]"]
    sets = [part for setting in settings for part in ("--set", setting)]
    shown = rattle("train", "--run-dir", "shown", *sets, *display, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert silent.policy_sha256 in shown.stdout


KILL_SETTINGS = ["--set", "env.worlds=64", "--set", "train.checkpoint_seconds=0.1"]
KILL_SETTINGS += ["--set", "evaluation={every_steps: 10000, episodes: 50}"]


def test_kill_9_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    moments = random.Random(1)  # noqa: S311  # which moments, the test may choose
    arguments = ["train", "--json", "--run-dir", "killed", *KILL_SETTINGS]
    for _ in range(5):
        process = RattleProcess(*arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()  # it has started; what follows is anywhere in the loop or in a checkpoint
        time.sleep(moments.uniform(0.0, 0.8))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        arguments = ["train", "--json", "--resume", "killed"]
    updates = (RunDirectory(tmp_path / "killed").table("updates") / "train.jsonl").read_text()
    last_whole_line = updates[: updates.rindex("\n")].splitlines()[-1]
    steps = ["--steps", str(json.loads(last_whole_line)["env_steps"] + 20_000)]
    last = rattle(*arguments, *steps, cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    found = last_json(last.stdout)
    whole = rattle("train", "--json", "--run-dir", "whole", *KILL_SETTINGS, *steps, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    expected = last_json(whole.stdout)
    same = ("policy_sha256", "updates", "env_steps", "episodes", "mean_return", "mean_episode_length")
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}
    clocks = ("time", "run_id", "seconds", "env_steps_per_second")
    one, other = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "killed")
    for table in ("episodes", "updates", "evaluations"):
        assert read_rows(other, table, *clocks) == read_rows(one, table, *clocks)
    assert recorded(other) == recorded(one)


def recorded(directory: RunDirectory) -> list[dict[str, object]]:
    """Return all recorded steps, less the run's name, in the order in which they were stored."""
    import pyarrow.parquet

    files = sorted(directory.table("steps").glob("*.parquet"))
    rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    assert rows
    return [{key: value for key, value in row.items() if key != "run_id"} for row in rows]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_with_a_checkpoint_that_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    command = ["train", "--json", "--run-dir", "run", "--set", "env.worlds=64"]
    process = RattleProcess(*command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()
    process.send_signal(number)
    output, errors = process.communicate(timeout=240)
    assert (process.returncode, errors) == (0, "")
    summary = last_json(output)
    assert summary["status"] == "interrupted"
    assert summary["updates"] > 0
    newest = list_checkpoints(RunDirectory(tmp_path / "run"))[-1]
    assert newest.name == f"update-{summary['updates']:010d}.safetensors"
    more = rattle("train", "--json", "--resume", "run", "--steps", summary["env_steps"] + 1024, cwd=tmp_path)
    assert last_json(more.stdout)["updates"] == summary["updates"] + 1
