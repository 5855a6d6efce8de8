"""Small experiments and ways to run them, in this process and in real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.rollouts.complete import complete
from rattle.runs.progress import Progress, Summary
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import load_settings
from rattle.trainer.train import train
from tests import template

RATTLE = [sys.executable, "-m", "rattle.cli"]
REPOSITORY = Path(__file__).parents[2]


class Silence:
    """A display that shows nothing and remembers what it was told."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.resumed_at: int | None = None

    def start(self, run_id: str, run_dir: str, resumed_at: int | None) -> None:
        self.resumed_at = resumed_at

    def update(self, progress: Progress) -> None:
        self.progress.append(progress)

    def finish(self, summary: Summary | None) -> None:
        pass


def small_settings(*overrides: str) -> ExperimentSettings:
    """Return the default experiment, small enough to finish in a second."""
    small = ["env.worlds=24", "train.steps=4608", "policy.hidden_sizes=[16]", "record.every_episodes=2"]
    return load_settings(None, [*small, *overrides], {})


@pytest.fixture
def train_small(tmp_path: Path) -> Callable[..., tuple[Summary, RunDirectory]]:
    """Train a small experiment in a directory of its own, with the defaults that commands choose."""
    made = iter(range(100))

    def run(*overrides: str) -> tuple[Summary, RunDirectory]:
        directory = tmp_path / f"run-{next(made)}"
        return train(complete(small_settings(*overrides)), directory, Silence()), RunDirectory(directory)

    return run


def rattle(*arguments: str | Path | int, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return template.run(*map(str, arguments), cwd=cwd, env={**os.environ, **variables})


def last_json(output: str) -> dict[str, Any]:
    """Return the object in the last line."""
    content: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return content


def read_rows(directory: RunDirectory, table: str, *without: str) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines table, less some columns."""
    lines = (directory.table(table) / "train.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in without} for line in lines]
