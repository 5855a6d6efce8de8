"""Deleting a run: what it has written, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.writer import storing
from rattle.text import one_line


def check_deletable(run: RunDirectory) -> None:
    """Raise AnalyticsError for a run that is in progress."""
    if run.in_use:
        raise AnalyticsError(one_line(f"{run.path} is in progress: stop it first, then delete it"))


def size_of(run: RunDirectory) -> int:
    """Return the bytes of all files that a run has written."""
    return sum(_size(file) for part in run.parts() for file in (part, *part.rglob("*")) if file.is_file())


def delete_run(run: RunDirectory) -> list[str]:
    """Delete what a run has written, and its directory where nothing else is in it.

    Returns the names of what is left there: a run may lie in a folder of the user's. The settings go last, so that a
    deletion that was broken off can be asked for again. Raises AnalyticsError for a run that is in progress, and for
    what the system refuses.
    """
    check_deletable(run)
    folder = run.path.resolve()
    with run.launching(), run.locked(), run.annotating():
        for part in run.parts():
            _delete(part)
        for lock in run.locks:
            _delete(lock)
    left = sorted(one_line(path.name) for path in folder.iterdir())
    if not left:
        with storing(folder):
            folder.rmdir()
            if run.path.is_symlink():
                run.path.unlink()
    return left


def _delete(path: Path) -> None:
    with storing(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:
        return 0
