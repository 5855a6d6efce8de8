"""Where a run began: asked without a failure, and kept over checkpoints, resumes and a lost row."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.runs import row
from rattle.runs import origin
from rattle.runs.origin import COLUMNS, command_line, repository
from rattle.runs.run_tables import read_run_row
from rattle.trainer.train import resume, train
from tests.trainer.conftest import Silence, small_settings

NONE = {"git_commit": "", "git_dirty": None}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Git waited for on machines that are busy."""
    monkeypatch.setattr(origin, "_PATIENCE", 60.0)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "below").mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "code.py").write_text("1")
    git(folder, "add", ".")
    return folder


def test_a_commit_and_whether_tracked_files_differ_from_it(checkout: Path) -> None:
    assert repository(checkout) == NONE  # nothing is committed yet
    git(checkout, "commit", "-qm", "one")
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "runs").mkdir()
    (checkout / "runs" / "new").touch()
    assert repository(checkout / "below") == {"git_commit": commit, "git_dirty": False}
    (checkout / "code.py").write_text("2")
    assert repository(checkout) == {"git_commit": commit, "git_dirty": True}


def test_no_repository_no_folder_and_no_git_are_no_errors(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert repository(tmp_path) == NONE
    assert repository(tmp_path / "gone") == NONE
    monkeypatch.setenv("PATH", str(tmp_path))
    assert repository(checkout) == NONE


def test_a_git_that_takes_long_is_not_waited_for(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(checkout, "commit", "-qm", "one")
    commit = git(checkout, "rev-parse", "HEAD")
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    slow.write_text(f'#!/bin/sh\ncase "$*" in *status*) sleep 600 & wait;; *) exec {real} "$@";; esac\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(origin, "_PATIENCE", 0.5)
    began = time.monotonic()
    assert repository(checkout)["git_dirty"] is None
    assert time.monotonic() - began < 60
    monkeypatch.setattr(origin, "_PATIENCE", 30)
    slow.write_text(slow.read_text().replace("sleep 600 & wait", "exit 1"))
    assert repository(checkout) == {"git_commit": commit, "git_dirty": None}


def test_a_repository_names_no_program_that_is_started(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "commit", "-qm", "one")
    git(checkout, "config", "core.fsmonitor", f"touch {tmp_path / 'started'}; false")
    (checkout / "code.py").write_text("2")
    assert repository(checkout)["git_dirty"]
    assert not (tmp_path / "started").exists()


def test_commands_are_shown_as_typed_less_secrets() -> None:
    assert command_line(["/opt/bin/rattle", "train", "a b"]) == "rattle train 'a b'"
    assert command_line(["/x/rattle/__main__.py", "up"]) == "rattle up"
    shown = command_line(["rattle", "train", "--set", "env.url=http://me:pass@host", "--set", "hooks=[{api_key: abc}]"])
    assert shown == "rattle train --set 'env.url=http://…@host' --set 'hooks=[{api_key: …}]'"
    assert "\n" not in command_line(["rattle", "a\nb"])
    assert command_line([]) == "''"


def test_the_origin_outlives_checkpoints_resumes_and_a_lost_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["rattle", "train", "first"])
    directory = RunDirectory(tmp_path / "run")
    train(small_settings("train.steps=2000"), directory.path, Silence())
    began = {name: read_run_row(directory)[name] for name in COLUMNS}
    assert began["command"] == "rattle train first"
    assert began["packages"]["torch"]
    monkeypatch.setattr(sys, "argv", ["rattle", "train", "again"])
    resume(str(directory.path), 3000, None, Silence())
    directory.run.unlink()
    resume(str(directory.path), 4608, None, Silence())
    assert {name: row(directory)[name] for name in COLUMNS} == began
