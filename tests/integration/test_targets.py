"""What the experiments promise to learn, in steps: how long that takes is measured in benchmarks/."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.trainer.conftest import RATTLE, REPOSITORY, last_json, rattle

pytestmark = [pytest.mark.integration, pytest.mark.whole(suite="slow")]

EXPERIMENTS = REPOSITORY / "shared" / "experiments"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_experiment_learns_to_eat(tmp_path: Path, seed: int) -> None:
    trained = rattle("train", "--steps", "6000000", "--seed", seed, "--run-dir", "run", "--json", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    evaluated = last_json(rattle("eval", "run", "--episodes", "200", "--json", cwd=tmp_path).stdout)
    assert evaluated["mean_food"] >= 40


def test_services_that_are_killed_again_and_again_learn_it_too(tmp_path: Path) -> None:
    limits = ["--seconds", "30", "--set", "train.steps=null"]
    command = [*RATTLE, "up", *limits, "--kill-every", "8s", "--run-dir", "run", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    summary = last_json(done.stdout)
    assert summary["status"] == "finished"
    assert summary["kills"] >= 2
    assert summary["restarts"] >= summary["kills"] - 1  # the last may have died when all was done
    # A death begins all games anew, and a policy that has seen little but beginnings since then plays their ends badly
    # for a while: one of its last second would be what is measured here.
    steps = max(8_000_000, summary["env_steps"] + 2_000_000)
    calm = rattle("up", "--resume", "run", "--steps", str(steps), "--json", cwd=tmp_path)
    assert calm.returncode == 0, calm.stderr
    evaluated = last_json(rattle("eval", "run", "--episodes", "200", "--json", cwd=tmp_path).stdout)
    assert evaluated["mean_food"] >= 40


@pytest.mark.parametrize(("algorithm", "steps"), [("ppo", 300_000), ("a2c", 1_200_000), ("reinforce", 2_000_000)])
def test_cartpole_is_solved_by_all_algorithms(tmp_path: Path, algorithm: str, steps: int) -> None:
    choice = ["--set", f"algorithm.id={algorithm}", "--steps", steps, "--run-dir", "run", "--json"]
    enough = ["--set", "train.stop_at_return=490"]  # learning goes on to worse policies again
    trained = rattle("train", EXPERIMENTS / "cartpole.yaml", *choice, *enough, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert last_json(trained.stdout)["env_steps"] < steps
    evaluated = last_json(rattle("eval", "run", "--episodes", "100", "--json", cwd=tmp_path).stdout)
    assert evaluated["mean_return"] >= 475


def test_two_snakes_learn_to_share_a_board(tmp_path: Path) -> None:
    experiment = EXPERIMENTS / "snake-duel.yaml"
    trained = rattle("train", experiment, "--steps", "1500000", "--run-dir", "run", "--json", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    evaluated = last_json(rattle("eval", "run", "--episodes", "100", "--json", cwd=tmp_path).stdout)
    assert evaluated["mean_food"] >= 20
