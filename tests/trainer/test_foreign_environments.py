"""Environments of other packages are trained in, resumed and evaluated by the commands that snake is."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.trainer.conftest import last_json, rattle

SNAKE = "pettingzoo:rattle.envs.snake.pettingzoo_face"
SMALL = ["--set", "env.worlds=8", "--set", "policy.hidden_sizes=[16]", "--json"]


def test_a_pettingzoo_module_is_trained_by_its_name(tmp_path: Path) -> None:
    own = ["--set", f"env.id={SNAKE}", "--set", "env.num_snakes=3", *SMALL]
    trained = rattle("train", *own, "--steps", 2000, "--run-dir", "whole", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    whole = last_json(trained.stdout)
    assert whole["episodes"] > 3

    rattle("train", *own, "--steps", 700, "--run-dir", "pieces", cwd=tmp_path)
    resumed = rattle("train", "--resume", "pieces", "--steps", 2000, "--json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert last_json(resumed.stdout)["policy_sha256"] == whole["policy_sha256"]

    evaluated = rattle("eval", "whole", "--episodes", 4, "--json", cwd=tmp_path)
    assert last_json(evaluated.stdout)["environment"] == SNAKE


def test_a_policy_from_a_stranger_gets_no_pettingzoo_module_imported(tmp_path: Path) -> None:
    (tmp_path / "party.py").write_text("from rattle.envs.snake.pettingzoo_face import parallel_env as parallel_env\n")
    own = ["--set", "env.id=pettingzoo:party", *SMALL]
    trained = rattle("train", *own, "--steps", 300, "--run-dir", "run", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert trained.returncode == 0, trained.stderr
    shutil.copy2(tmp_path / "run" / "policy.safetensors", tmp_path / "sent.safetensors")
    refused = rattle("eval", "sent.safetensors", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert refused.returncode != 0
    assert "names the module 'party', which is not imported because a file says so" in refused.stderr
