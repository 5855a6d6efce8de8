"""Experiments for environments of others start, learn a little and are in the table on their page."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.trainer.conftest import last_json, rattle

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parents[2] / "examples" / "environments"
EXPERIMENTS = sorted(FOLDER.glob("*.yaml"))
#: What experiments need in addition to the extra `dev`: for each module, what pip installs.
NEEDED = {
    "cartpole_envpool": {"envpool": "'rattle[envpool]'"},
    "halfcheetah": {"mujoco": "'rattle[mujoco]'"},
    "minigrid": {"minigrid": "'rattle[games]'"},
    "pong": {"ale_py": "ale-py", "cv2": "opencv-python-headless"},
    "pong_envpool": {"envpool": "'rattle[envpool]'"},
    "tictactoe": {"pygame": "'rattle[games]'"},
}


def test_there_are_some() -> None:
    assert EXPERIMENTS


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_is_trained_for_a_moment(experiment: Path, tmp_path: Path) -> None:
    for module, package in NEEDED.get(experiment.stem, {}).items():
        if find_spec(module) is None:
            pytest.skip(f"{experiment.name} needs {package}, which is not installed here")
    smaller = ("--set", "env.worlds=4", "--steps", "2000")
    trained = rattle("train", experiment, *smaller, "--run-dir", "run", "--json", cwd=tmp_path, PYTHONPATH=str(FOLDER))
    assert trained.returncode == 0, trained.stderr
    summary = last_json(trained.stdout)
    assert summary["status"] == "finished"
    assert summary["updates"] > 0
    assert f"]({experiment.name})" in (FOLDER / "README.md").read_text()
