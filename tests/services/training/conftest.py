"""What tests of the Training service share with those of `rattle train`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rattle.analytics.run_directory import RunDirectory
from rattle.rollouts.complete import complete
from rattle.runs.progress import Summary
from rattle.trainer.train import train
from tests.trainer.conftest import Silence, small_settings


@pytest.fixture
def train_small(tmp_path: Path) -> Callable[..., tuple[Summary, RunDirectory]]:
    """Train a small experiment in a directory of its own, with the defaults that the service chooses."""

    def run(*overrides: str) -> tuple[Summary, RunDirectory]:
        directory = tmp_path / "trained"
        return train(complete(small_settings(*overrides)), directory, Silence()), RunDirectory(directory)

    return run
