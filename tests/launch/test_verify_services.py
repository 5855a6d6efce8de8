"""`rattle verify-determinism` with the real services: equal runs are equal, and one that is not is found out."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.launch import verify_with_a_whim
from tests.launch.verify_with_a_whim import NOT_BEFORE, SNAKE
from tests.template import RATTLE, run

pytestmark = pytest.mark.integration


def verify(*arguments: str, cwd: Path, program: str = RATTLE) -> tuple[int, dict[str, Any], str]:
    variables = {**os.environ, "TMPDIR": str(cwd)}
    done = run("verify-determinism", "--json", *arguments, cwd=cwd, env=variables, timeout=280, program=program)
    assert "Traceback" not in done.stderr
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.whole(suite="slow")
def test_runs_are_equal_whatever_is_lost_late_or_shared_among_processes(tmp_path: Path) -> None:
    status, report, err = verify("--ticks", "200", "--inference", "1,2", cwd=tmp_path)
    assert (status, report["agree"]) == (0, True), err
    one, other = report["runs"]
    assert one["histories"] == other["histories"]
    assert set(one["histories"]) == {"env-0", "main-0", "main-1", "main-2", "main-3"}
    assert one["policies"] == other["policies"]
    assert one["policies"]["main"]["updates"] >= 1
    for found in (one, other):
        assert (found["ticks"], found["faults"], found["restarts"]) == (200, [], 0)
        assert found["datagrams"]["lost_on_purpose"] > 0
        assert found["datagrams"]["repeated"] > 0
    assert not list(tmp_path.glob("rattle-verify-*"))


def test_a_snake_that_does_as_it_likes_is_named_with_the_tick(tmp_path: Path) -> None:
    few = ("--ticks", "60", "--loss", "0.05", "--delay", "0", "--inference", "2", "--keep", "runs")
    status, report, err = verify(*few, cwd=tmp_path, program=verify_with_a_whim.__name__)
    assert (status, report["agree"]) == (1, False), err
    tick = int((tmp_path / "runs" / "run-2" / "whim.txt").read_text())
    assert tick >= NOT_BEFORE
    found = report["difference"]
    assert (found["tick"], found["phase"]) == (tick, "step")
    assert SNAKE in found["agents"]
    assert set(found["worlds"]) == {"env-0"}
    assert all(one != other for one, other in found["agents"].values())
    assert all(run["faults"] == [] for run in report["runs"])  # within each run, all agree


def test_another_seed_is_another_run_from_the_first_tick(tmp_path: Path) -> None:
    few = ("--ticks", "30", "--loss", "0", "--delay", "0", "--inference", "1")
    kept = [verify(*few, "--set", f"seed={seed}", cwd=tmp_path)[1]["runs"][0] for seed in (0, 1)]
    assert kept[0]["history_sha256"] != kept[1]["history_sha256"]


@pytest.mark.whole(suite="slow")
def test_classes_of_users_learn_the_same_every_time(tmp_path: Path) -> None:
    for path in (Path(__file__).parents[2] / "examples" / "extend").glob("my_*.py"):
        shutil.copy(path, tmp_path)
    own = ("--set", "algorithm={id: 'my_algorithm:Clipped'}", "--set", "policy={network: 'my_network:Remembers'}")
    few = ("--ticks", "200", "--loss", "0", "--delay", "0", "--inference", "1,2")
    status, report, err = verify(*few, *own, cwd=tmp_path)
    assert (status, report["agree"]) == (0, True), err
    assert report["runs"][0]["policies"]["main"]["updates"] >= 1
