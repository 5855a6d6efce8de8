"""Runs whose tables are closed and packed all the time, and killed: no row is lost, and none is there twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rattle.analytics.packing import unpack
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.table_parts import PACKED, table_files
from tests import template
from tests.template import start
from tests.trainer import short_parts

pytestmark = pytest.mark.integration

PROGRAM = short_parts.__name__
SETTINGS = ("env.worlds=64", "train.checkpoint_seconds=0.05", "evaluation={every_steps: 10000, episodes: 20}")
CLOCKS = frozenset({"time", "run_id", "seconds", "env_steps_per_second"})


def rows(run: RunDirectory, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table in their order, less what depends on clocks."""
    found: list[dict[str, Any]] = []
    for path in table_files(run.table(table)):
        if path.suffix == PACKED:
            found += unpack(path)
        else:
            found += [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in found]


def test_kill_9_at_any_moment_loses_no_row_of_long_tables(tmp_path: Path) -> None:
    moments = random.Random(3)  # noqa: S311  # which moments, the test may choose
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    arguments = ["train", "--json", "--run-dir", "killed", *sets]
    for _ in range(4):
        process = start(*arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, program=PROGRAM)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0.5, 1.5))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        arguments = ["train", "--json", "--resume", "killed"]
    killed = RunDirectory(tmp_path / "killed")
    done = msgspec.json.decode(killed.run.read_bytes())["env_steps"]
    steps = ["--steps", str(done + 40_000)]
    for rest in (arguments, ["train", "--json", "--run-dir", "whole", *sets]):
        ended = template.run(*rest, *steps, cwd=tmp_path, timeout=250, program=PROGRAM)
        assert ended.returncode == 0, ended.stderr
    assert [path.suffix for path in table_files(killed.table("episodes"))].count(PACKED) >= 1
    for table in ("episodes", "updates", "evaluations"):
        assert rows(killed, table) == rows(RunDirectory(tmp_path / "whole"), table), table
