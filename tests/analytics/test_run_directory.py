"""Runs are found by name, and one process at a time writes to a run."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory, find_run, list_runs, without_copies
from rattle.analytics.runs import row
from tests.analytics.build import make_run

HOLDER = """
import sys
from pathlib import Path
from rattle.analytics.run_directory import RunDirectory
with getattr(RunDirectory(Path(sys.argv[1])), sys.argv[2])():
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process_in(run: RunDirectory, kind: str = "locked") -> Iterator[subprocess.Popen[str]]:
    """Hold a lock of a run in another process."""
    command = [sys.executable, "-c", HOLDER, str(run.path), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_run_in_use_by_another_process_is_refused_until_that_dies(run: RunDirectory) -> None:
    assert not run.in_use
    with other_process_in(run) as process:
        assert run.in_use
        with pytest.raises(AnalyticsError, match="is in use by another process: wait for it, stop it"), run.locked():
            pass
        process.kill()
        process.wait()
        assert not run.in_use
        with run.locked():
            assert run.in_use
    assert not run.in_use


def test_one_launcher_at_a_time_while_its_services_come_and_go(run: RunDirectory) -> None:
    in_use = "is in use by another process"
    with other_process_in(run, "launching"):
        assert run.in_use
        with pytest.raises(AnalyticsError, match=in_use), run.launching():
            pass
        with run.locked():  # as a service does
            pass
        assert run.in_use
    with other_process_in(run), pytest.raises(AnalyticsError, match=in_use), run.launching():
        pass
    with run.launching():
        pass
    assert not run.in_use


def test_asking_whether_a_run_is_in_use_leaves_no_trace(run: RunDirectory) -> None:
    assert not run.in_use
    assert not (run.path / ".lock").exists()


def test_a_lock_that_may_not_be_looked_at_counts_as_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    run = make_run(tmp_path, status="running")
    monkeypatch.setattr(os, "open", refuse)
    assert run.in_use
    assert row(run)["status"] == "running"
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert row(run)["status"] == "damaged"


def test_a_directory_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnalyticsError, match=r"cannot write .*gone/\.lock"), RunDirectory(tmp_path / "gone").locked():
        pass


def test_runs_are_found_by_path_name_beginning_and_latest(tmp_path: Path) -> None:
    first, second = make_run(tmp_path, "20260101-snake-a"), make_run(tmp_path, "20260102-snake-b")
    os.utime(first.config, (2e9, 2e9))
    assert [run.path for run in list_runs(tmp_path)] == [first.path, second.path]
    assert [run.path for run in list_runs(second.path)] == [second.path]
    assert find_run(str(second.path), tmp_path).path == second.path
    assert find_run("20260102-snake-b", tmp_path).path == second.path
    assert find_run("20260102", tmp_path).path == second.path
    assert find_run("latest", tmp_path).path == second.path  # the one started last, whatever was touched since


@pytest.mark.parametrize(
    ("name", "message"), [("2026", "beginning of 2 runs"), ("other", "no run 'other': give a run directory")]
)
def test_what_is_not_one_run_is_explained(tmp_path: Path, name: str, message: str) -> None:
    make_run(tmp_path, "20260101-snake-a")
    make_run(tmp_path, "20260102-snake-b")
    with pytest.raises(AnalyticsError, match=message):
        find_run(name, tmp_path)


def test_no_runs_yet(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "missing") == []
    with pytest.raises(AnalyticsError, match="start one with 'rattle train'"):
        find_run("latest", tmp_path)


def test_a_run_counts_once_whatever_leads_to_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, "r1")
    longer = make_run(tmp_path, "r10")
    shutil.copytree(run.path, tmp_path / "a-copy")
    (tmp_path / "link").symlink_to(run.path)
    copies: list[str] = []
    chosen = without_copies([*list_runs(tmp_path), find_run("r1", tmp_path)], copies.append)
    assert sorted(found.path.resolve() for found in chosen) == sorted([run.path.resolve(), longer.path.resolve()])
    assert len(copies) == 1
    assert "a-copy is left out: it holds the same run as" in copies[0]
    run.path.rename(tmp_path / "moved")
    with pytest.raises(AnalyticsError, match=r"2 directories hold the run 'r1' \(.*a-copy, .*moved\): give the path"):
        find_run("r1", tmp_path)


@pytest.mark.parametrize("name", ["x" * 300, "nul\0", "\udcfc"])
def test_names_that_no_system_takes_are_no_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(AnalyticsError, match="no run "):
        find_run(name, tmp_path)


def test_the_latest_run_is_preferred_to_its_copies(tmp_path: Path) -> None:
    run = make_run(tmp_path, "20260101-snake-a")
    for name in ("0-backup", "z-backup"):
        shutil.copytree(run.path, tmp_path / name)
    assert find_run("latest", tmp_path).path == run.path
