"""Writing files so that a crash at any moment, or a full disk, leaves what was there."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from itertools import count as counting
from pathlib import Path
from typing import Final

from rattle.analytics.errors import AnalyticsError

_AT_A_TIME: Final = 8  # files that are brought to the disk side by side
_DISK_IS_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_TAKES_NOTHING: Final = _DISK_IS_FULL | {errno.EACCES, errno.EPERM, errno.EROFS}


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file so that a crash at any moment leaves the old or the new content, whole.

    A failed write (a full disk) removes what it had begun, leaves the old content and raises AnalyticsError.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Replace files as `write_atomically` does, in the given order but with one wait for the disk in all.

    A failed write leaves all of them as they were.
    """
    temporary = {path: _beside(path) for path in contents}

    def write(path: Path) -> None:
        with storing(path):
            temporary[path].write_bytes(contents[path])
            sync_file(temporary[path])

    try:
        side_by_side(partial(write, path) for path in contents)
        for path in contents:
            with storing(path):
                temporary[path].replace(path)
    finally:
        for path in temporary.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)
    side_by_side(partial(sync_folder, folder) for folder in {path.parent for path in contents})


def side_by_side(works: Iterable[Callable[[], None]]) -> None:
    """Do what waits for the disk in threads, and raise what the first that failed raises."""
    with ThreadPoolExecutor(_AT_A_TIME, "disk") as pool:
        done = [pool.submit(work) for work in works]
    for one in done:
        one.result()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the block a temporary path to write to, which takes the place of `path` when the block ends well."""
    temporary = _beside(path)
    with storing(path):
        try:
            yield temporary
            sync_file(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def drop_unfinished(folder: Path, names: str) -> None:
    """Delete what was begun, by processes that no longer write here, in place of files of these names (a pattern)."""
    for unfinished in folder.glob(f".[0-9]*.{names}"):
        unfinished.unlink()


def put_aside(path: Path, suffix: str) -> None:
    """Rename a file to PATH.SUFFIX, with a number at its end where that is taken."""
    aside = Path(f"{path}.{suffix}")
    numbered = (aside.with_name(f"{aside.name}.{number}") for number in counting(2))
    path.rename(next(other for other in chain([aside], numbered) if not other.exists()))


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses in the block into an AnalyticsError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_IS_FULL:
            advice = "the disk is full: free some space and run it again; what was stored before is intact"
            raise AnalyticsError(f"cannot write {path}: {advice}") from error
        if isinstance(error, FileNotFoundError):
            missing = "it has been deleted or moved" if path.parent.exists() else f"there is no folder {path.parent}"
            raise AnalyticsError(f"cannot write {path}: {missing}") from error
        raise AnalyticsError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def or_elsewhere() -> Iterator[None]:
    """Say of a place that takes nothing from the block, as `storing` does, that --output names another one."""
    try:
        yield
    except AnalyticsError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _TAKES_NOTHING:
            raise AnalyticsError(f"{error}; choose another place with --output") from error.__cause__
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    with storing(folder):
        sync_file(folder)


def _beside(path: Path) -> Path:
    """Return a name for what will take the place of `path`, of this thread alone; its suffix says what it holds."""
    return path.with_name(f".{threading.get_native_id()}.{path.name}")


def end_of_last_line(path: Path) -> int:
    """Return where the last whole line ends: a process that was killed may have left half a line after it."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.rfind(b"\n") + 1


def sync_file(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
