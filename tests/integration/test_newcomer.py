"""What `make train` leaves behind, what the built package has in it, and a disk that is really full."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from rattle.analytics.run_directory import RunDirectory, find_run, list_runs
from rattle.runs.checkpoint import list_checkpoints, load_checkpoint
from rattle.runs.run_tables import read_run_row
from tests.trainer.conftest import REPOSITORY, last_json, rattle

pytestmark = pytest.mark.integration


def test_make_train_leaves_a_curve_and_a_replay(tmp_path: Path) -> None:
    if not (REPOSITORY / ".venv" / ".users").exists():
        pytest.skip("`make train` would install everything again: the tests do not run from make's own .venv")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy2(REPOSITORY / name, tmp_path)
    for name in ("requirements", "shared"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(REPOSITORY / ".venv")
    made = subprocess.run(
        ["make", "train", "SECONDS_TO_TRAIN=6"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    (run,) = list_runs(tmp_path / "runs")
    for name in ("learning_curve.png", "replay.gif"):
        with Image.open(run.path / name) as image:
            assert min(image.size) > 300
            assert getattr(image, "n_frames", 1) > (10 if name.endswith("gif") else 0)
        assert f"{run.path.relative_to(tmp_path)}/{name}" in made.stdout
    assert "rattle query" in made.stdout.partition("Try next")[2]


@pytest.mark.whole(suite="slow")
def test_the_built_wheel_has_all_that_it_needs(tmp_path: Path) -> None:
    """It is installed in an empty folder; only the packages that it depends on are those of this environment."""
    source, place = tmp_path / "source", tmp_path / "place"
    shutil.copytree(REPOSITORY / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy2(REPOSITORY / name, source)
    place.mkdir()

    def run(program: Path | str, *arguments: Path | str) -> str:
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(program), *map(str, arguments)]
        done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", place, source)
    run(sys.executable, "-m", "venv", "--without-pip", place / "venv")
    packages = next((place / "venv").glob("lib/python*/site-packages"))
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", packages, *place.glob("*.whl"))
    others = [path for path in sys.path if path.endswith("-packages")]
    (packages / "others.pth").write_text("\n".join(others))
    python = place / "venv" / "bin" / "python"
    found = run(python, "-P", "-c", "import rattle; print(rattle.__file__)")
    assert found.startswith(str(packages))
    small = ["--set", "env.worlds=4", "--set", "policy.hidden_sizes=[16]", "--steps", "2000"]
    run(python, "-P", "-m", "rattle", "train", "cartpole", *small, "--run-dir", "run")
    assert "mean_return" in run(python, "-P", "-m", "rattle", "eval", "run", "--episodes", "2", "--json")
    up = run(python, "-P", "-m", "rattle", "up", "cartpole", *small, "--run-dir", "up", "--json")
    assert last_json(up)["status"] == "finished"
    ours = {path.relative_to(REPOSITORY / "src") for path in (REPOSITORY / "src" / "rattle").rglob("*.*")}
    data = {path for path in ours if not {"__pycache__", ".py", ".md"} & {*path.parts, path.suffix}}
    assert {path for path in data if not (packages / path).exists()} == set()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only, where the kernel lets it")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_stops_the_run_in_one_line_and_leaves_it_whole(small_disk: Path) -> None:
    settings = ["--set", "env.worlds=64", "--set", "train.checkpoint_seconds=0.2", "--steps", "2000000"]
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 1_000_000)
    full = rattle("train", *settings, "--run-dir", "run", cwd=small_disk, HOME=os.environ.get("HOME", "/"))
    assert full.returncode == 1
    assert full.stderr.count("\n") == 1
    assert "the disk is full: free some space" in full.stderr
    run = find_run(str(small_disk / "run"))
    checkpoints, run_id = list_checkpoints(run), read_run_row(run)["run_id"]
    assert checkpoints
    for checkpoint in checkpoints:
        load_checkpoint(checkpoint, run_id)
    ballast.unlink()
    before = load_checkpoint(checkpoints[-1], run_id).numbers["env_steps"]
    more = rattle("train", "--resume", "run", "--steps", before + 4096, "--json", cwd=small_disk)
    assert more.returncode == 0, more.stderr
    assert last_json(more.stdout)["status"] == "finished"
    assert RunDirectory(small_disk / "run").policy.exists()
