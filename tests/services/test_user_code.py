"""Code of users over services: the examples, the same as in one process; faults, kills and code that has changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.runs.run_tables import read_run_row
from tests.template import start
from tests.trainer.conftest import REPOSITORY, last_json, rattle, read_rows

pytestmark = pytest.mark.integration

EXPERIMENT = """
env: {id: "my_world:Pond", worlds: 32, size: 5}
algorithm: {id: "my_algorithm:Clipped", ticks: 16}
policy: {hidden_sizes: [8]}
hooks: [{use: "watcher:Watcher"}]
train: {steps: 10000, checkpoint_seconds: 0.3}
"""
WATCHER = """
from rattle.extend import A2C, DiscreteSpace, FloatSpace, Hook, Metric, Worlds

class Watcher(Hook):
    metrics = (Metric("seen", "", ""),)
    seen = 0

    def on_update(self, row):
        self.seen += 1
        self.report(seen=self.seen)

    def state(self):
        return {"seen": self.seen}

    def restore(self, state):
        self.seen = state["seen"]

class FailingHook(Watcher):
    def on_update(self, row):
        if row["policy_version"] == 3:
            raise ValueError("broken\\non purpose")

class FailingAtCheckpoint(Watcher):
    def on_checkpoint(self, path):
        raise ValueError("full")

class FailingAlgorithm(A2C):
    def update(self, rollout, optimisation):
        if optimisation.version == 3:
            raise KeyError("lost")
        return super().update(rollout, optimisation)

class FailingWorlds(Worlds):
    ticks = 0

    def spaces(self):
        return FloatSpace(size=1), DiscreteSpace(n=2)

    def start(self, worlds):
        self.truncated[:] = False

    def advance(self, action):
        self.ticks += 1
        self.reward[:] = action
        self.truncated[:] = self.ticks % 50 == 0
        if self.ticks == 10_000:
            raise ValueError("drained")
"""

WRAPPER = """
import gymnasium

class Halved(gymnasium.RewardWrapper):
    def reward(self, reward):
        return reward / 2
"""
SHORT = {"use": "TimeLimit", "max_episode_steps": 5}
WRAPPED = """
env:
  id: gym:CartPole-v1
  worlds: 4
  wrappers: ["my_wrapper:Halved", {use: TimeLimit, max_episode_steps: 5}]
policy: {hidden_sizes: [8]}
train: {steps: 1024, actors: 1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make the folder that a user works in."""
    for example in (REPOSITORY / "examples" / "extend").glob("*.py"):
        shutil.copy(example, tmp_path)
    (tmp_path / "watcher.py").write_text(WATCHER)
    (tmp_path / "mine.yaml").write_text(EXPERIMENT)
    return tmp_path


def test_a_run_of_own_classes_alone_is_played_and_exported(folder: Path) -> None:
    own = ("--set", "policy={network: 'my_network:Remembers'}", "--steps", "2000")
    done = rattle("train", "mine.yaml", "--run-dir", "run", *own, cwd=folder)
    assert done.returncode == 0, done.stderr
    played = rattle("eval", "run", "--episodes", "3", "--json", cwd=folder)
    assert last_json(played.stdout)["episodes"] == 3, played.stderr
    exported = rattle("export", "run", "--onnx", "policy.onnx", cwd=folder)
    assert exported.returncode == 0, exported.stderr
    assert "'observation' and 'state' in, 'logits' and 'value' and 'next_state' out" in exported.stdout
    assert (folder / "policy.onnx").stat().st_size


def test_services_and_one_process_learn_the_same(folder: Path) -> None:
    here = rattle("train", "mine.yaml", "--run-dir", "here", cwd=folder)
    assert here.returncode == 0, here.stderr
    there = rattle("up", "mine.yaml", "--run-dir", "there", "--set", "topology.env=2", cwd=folder)
    assert there.returncode == 0, there.stderr
    one, other = RunDirectory(folder / "here"), RunDirectory(folder / "there")
    assert other.policy.read_bytes() == one.policy.read_bytes()
    times = ("time", "seconds", "env_steps_per_second", "run_id")
    assert read_rows(other, "updates", *times) == read_rows(one, "updates", *times)
    last = read_rows(one, "updates")[-1]
    assert set(last["metrics"]) == {"held_share", "seen"}
    assert last["metrics"]["seen"] == last["policy_version"]
    names = [code["name"] for code in read_run_row(other)["config"]["code"]]
    assert names == ["my_world:Pond", "my_algorithm:Clipped", "watcher:Watcher"]
    judged = rattle("eval", "there", "--episodes", 5, "--json", cwd=folder)
    assert json.loads(judged.stdout)["environment"] == "my_world:Pond"


def test_what_a_hook_keeps_survives_kills(folder: Path) -> None:
    process = start("train", "mine.yaml", "--run-dir", "run", "--steps", "1000000", "--json", cwd=folder, stdout=-1)
    assert process.stdout is not None
    for line in process.stdout:
        content = json.loads(line)
        if content["event"] == "progress" and content["updates"] > 30:
            break
    process.kill()
    process.wait()
    process.stdout.close()
    directory = RunDirectory(folder / "run")
    resumed = rattle("train", "--resume", "run", "--seconds", 2, cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    rows = read_rows(directory, "updates")
    assert [row["metrics"]["seen"] for row in rows] == [row["policy_version"] for row in rows]


@pytest.mark.parametrize(
    ("setting", "said", "updates"),
    [
        ("algorithm={id: 'watcher:FailingAlgorithm'}", "watcher:FailingAlgorithm: update raised KeyError: 'lost'", 3),
        ("hooks=[{use: 'watcher:FailingHook'}]", "watcher:FailingHook: on_update raised ValueError: broken on", 3),
        (
            "hooks=[{use: 'watcher:FailingAtCheckpoint'}]",
            "FailingAtCheckpoint: on_checkpoint raised ValueError: full",
            1,
        ),
        (
            "env={id: 'watcher:FailingWorlds', worlds: 32}",
            "watcher:FailingWorlds: advance raised ValueError: drained",
            0,
        ),
    ],
)
def test_code_that_fails_ends_the_run_with_one_line(folder: Path, setting: str, said: str, updates: int) -> None:
    steps = ("--steps", 10**7, "--run-dir", "run", "--set", setting)
    ended = rattle("up", "mine.yaml", *steps, cwd=folder)
    assert ended.returncode == 1
    assert said in ended.stderr.splitlines()[-1]
    assert "waiting until" not in ended.stdout  # actors wait in vain now
    row = read_run_row(RunDirectory(folder / "run"))
    assert row["status"] == "failed"
    if updates:
        assert row["updates"] == updates  # nothing that was learnt is lost
    assert row["updates"] > 0


@pytest.mark.whole(suite="slow")
def test_changed_code_is_refused_by_every_service_unless_allowed(folder: Path) -> None:
    assert rattle("up", "mine.yaml", "--steps", 2000, "--run-dir", "run", cwd=folder).returncode == 0
    with (folder / "my_world.py").open("a") as file:
        file.write("# changed\n")
    said = "run/config.yaml: the code of 'my_world:Pond' has changed since the run began"
    for command in (("up", "--resume", "run"), ("train", "--resume", "run"), ("env", "run/config.yaml")):
        ended = rattle(*command, cwd=folder)
        assert ended.returncode == 1, command
        assert said in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1
    steps = ("--steps", 4000)
    allowed = rattle("up", "--resume", "run", *steps, "--allow-changed-code", cwd=folder)
    assert allowed.returncode == 0, allowed.stderr
    assert read_run_row(RunDirectory(folder / "run"))["env_steps"] >= 4000
    digest = hashlib.sha256((folder / "my_world.py").read_bytes()).hexdigest()
    assert digest in (folder / "run" / "config.yaml").read_text()  # what was allowed is what the run has now


def test_code_that_is_not_there_is_said(folder: Path) -> None:
    assert rattle("train", "mine.yaml", "--steps", 1000, "--run-dir", "run", cwd=folder).returncode == 0
    (folder / "elsewhere").mkdir()
    ended = rattle("up", "--resume", "../run", cwd=folder / "elsewhere")
    assert ended.returncode == 1
    assert "cannot import 'my_algorithm', which should hold an algorithm, Clipped" in ended.stderr
    assert "start in the folder that holds the module" in ended.stderr


def test_wrappers_of_a_user_go_with_the_environment_to_services(folder: Path) -> None:
    (folder / "my_wrapper.py").write_text(WRAPPER)
    (folder / "wrapped.yaml").write_text(WRAPPED)
    for command, run_dir in (("train", "here"), ("up", "there")):
        ended = rattle(command, "wrapped.yaml", "--run-dir", run_dir, cwd=folder)
        assert ended.returncode == 0, ended.stderr
    one, other = RunDirectory(folder / "here"), RunDirectory(folder / "there")
    assert other.policy.read_bytes() == one.policy.read_bytes()
    for row in map(read_run_row, (one, other)):
        assert row["config"]["env"]["wrappers"] == [{"use": "my_wrapper:Halved"}, {**SHORT}]
        assert [code["name"] for code in row["config"]["code"]] == ["my_wrapper:Halved"]
    played = last_json(rattle("eval", "here", "--episodes", "3", "--json", cwd=folder).stdout)
    assert (played["max_length"], played["max_return"]) == (5, 2.5)
    (folder / "policy.safetensors").write_bytes(one.policy.read_bytes())
    refused = rattle("eval", "policy.safetensors", cwd=folder)
    said = "wrappers[0] names 'my_wrapper:Halved', which is not imported because a file says so: trust it with --env"
    assert said in refused.stderr
    trusted = rattle("eval", "policy.safetensors", "--episodes", "3", "--env", "gym:CartPole-v1", cwd=folder)
    assert trusted.returncode == 0, trusted.stderr
