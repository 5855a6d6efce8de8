"""Environments that code of others steps as one batch are trained in, served and evaluated as others are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.policies.file import load_policy
from tests.processes import ServiceProcess
from tests.trainer.conftest import last_json, rattle, read_rows

CARTPOLE = ["--set", "env.id=gym:CartPole-v1", "--set", "env.vector=auto", "--json"]
SMALL = ["--set", "env.worlds=32", "--set", "policy.hidden_sizes=[16]", "--set", "algorithm.ticks=32"]
STEPPED = "is stepped as one batch by CartPoleVectorEnv: its worlds share what they draw, so that games depend on"


@pytest.mark.integration
def test_cartpole_is_learnt_in_its_vector_environment(tmp_path: Path) -> None:
    own = ["--set", "env.worlds=64", "--set", "algorithm.ticks=64", "--steps", 150_000]
    own += ["--set", "evaluation={every_steps: 100000, episodes: 20}"]
    trained = rattle("train", *CARTPOLE, *own, "--run-dir", "run", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert last_json(trained.stdout)["mean_return"] > 100
    rows = read_rows(RunDirectory(tmp_path / "run"), "logs")
    assert [row["event"] for row in rows][:2] == ["run_started", "stepped_as_batch"]
    evaluated = rattle("eval", "run", "--episodes", 20, "--json", cwd=tmp_path)
    assert last_json(evaluated.stdout)["mean_return"] > 100
    row = read_rows(RunDirectory(tmp_path / "run"), "evaluations")[-1]
    again = rattle("eval", "run", "--best", "--episodes", 20, "--seed", row["seed"], "--json", cwd=tmp_path)
    assert last_json(again.stdout)["mean_return"] == row["mean_return"]


def test_two_runs_of_a_seed_agree_and_a_resume_begins_new_episodes(tmp_path: Path) -> None:
    hashes = []
    for name in ("one", "other"):
        trained = rattle("train", *CARTPOLE, *SMALL, "--steps", 4000, "--run-dir", name, cwd=tmp_path)
        assert trained.returncode == 0, trained.stderr
        assert [STEPPED in line for line in trained.stderr.splitlines()].count(True) == 1
        hashes.append(last_json(trained.stdout)["policy_sha256"])
    assert hashes[0] == hashes[1]
    resumed = rattle("train", "--resume", "one", "--steps", 6000, "--json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "whose worlds cannot be stored: new episodes begin" in resumed.stderr
    assert last_json(resumed.stdout)["env_steps"] >= 6000


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("raises", "worlds 0 to 7: step raised RuntimeError: the sea is rough"),
        ("shape", "worlds 0 to 7: step handed out an observation of shape (8, 2) and type float64"),
        ("nan", "world 0: an observation that is not finite, or too large for float32, in tick"),
        ("bad_reward", "world 0: a reward that is not finite, or too large for float32, in tick"),
    ],
)
def test_a_batch_that_goes_wrong_fails_the_run_and_keeps_what_was_learnt(tmp_path: Path, wrong: str, said: str) -> None:
    name = "tests.envs.counting_vector:Counting"
    own = [f"env.id={name}", "env.worlds=8", f"env.wrong={wrong}", "env.wrong_after=100", "train.actors=1"]
    own += ["algorithm=a2c", "algorithm.ticks=8", "policy.hidden_sizes=[8]"]
    settings = [part for setting in own for part in ("--set", setting)]
    trained = rattle("train", *settings, "--run-dir", "run", cwd=tmp_path)
    assert trained.returncode == 1
    last = trained.stderr.splitlines()[-1]
    assert last.startswith(f"Error: '{name}', {said}"), last
    assert json.loads((tmp_path / "run" / "run.json").read_bytes())["status"] == "failed"
    updates = read_rows(RunDirectory(tmp_path / "run"), "updates")
    assert len(updates) == 12
    assert load_policy(RunDirectory(tmp_path / "run").policy.read_bytes()).version == 12


def test_a_server_plays_one_batch_and_stores_none(tmp_path: Path) -> None:
    with ServiceProcess("env", settings=("env.id=gym:CartPole-v1", "env.vector=always")) as server:
        at = ["--set", f"env.url={server.url}", *SMALL]
        trained = rattle("train", *at, "--steps", 4000, "--run-dir", "run", "--json", cwd=tmp_path)
        assert trained.returncode == 0, trained.stderr
        assert STEPPED in trained.stderr
        resumed = rattle("train", "--resume", "run", "--steps", 6000, "--json", cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
        assert "the environment server cannot store worlds" in resumed.stderr
    assert np.isfinite(last_json(resumed.stdout)["mean_return"])
