"""A folder of runs, and the pages over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rattle.services.dashboard.directories import RunDirectories
from tests.services.dashboard.build import Client


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def client(root: Path) -> Client:
    return Client(RunDirectories(root))
