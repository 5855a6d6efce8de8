"""Append-only tables of a run directory: buffered, flushed together, and cut back to a known point on resume."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from itertools import count as counting
from pathlib import Path
from typing import Any, Final

import msgspec

from rattle.analytics.errors import AnalyticsError, reading

_encoder = msgspec.json.Encoder()

_FLUSH_AT: Final = 1 << 20  # bytes
_LONGEST_ROW: Final = 1 << 16  # bytes that the last row is looked for in
_AT_A_TIME: Final = 8  # files that are brought to the disk side by side
_DISK_IS_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_TAKES_NOTHING: Final = _DISK_IS_FULL | {errno.EACCES, errno.EPERM, errno.EROFS}


class TableWriter:
    """One process's JSON-lines file of one table; methods raise AnalyticsError when the disk does not take the rows."""

    def __init__(self, folder: Path, writer: str) -> None:
        self._path = table_file(folder, writer)
        self._pending = bytearray()
        with storing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
            self._length = end_of_last_line(self._path)
            self._file.truncate(self._length)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; they reach the file at the next `flush` at the latest."""
        self._pending += _encoder.encode_lines(rows)
        if len(self._pending) >= _FLUSH_AT:
            self.flush()

    def flush(self) -> int:
        """Hand everything to the operating system and return the file's length in bytes.

        When that fails the file ends where it ended before, and the rows stay here for the next attempt.
        """
        with storing(self._path):
            try:
                self._append()
            except OSError:
                self._file.truncate(self._length)
                raise
        return self._length

    def forget(self) -> None:
        """Drop the rows that `flush` could not write."""
        self._pending.clear()

    def sync(self) -> None:
        """Bring what was flushed before to the disk; another thread may write and flush meanwhile."""
        with storing(self._path):
            os.fsync(self._file.fileno())

    def truncate(self, length: int, *, keep: bool = False) -> None:
        """Drop what was written after the file was `length` bytes long; with `keep`, append it to PATH.cut.

        Raises AnalyticsError as `check_cut` does.
        """
        check_cut(self._path, length)
        self._pending.clear()
        with storing(self._path):
            if keep and length < self._length:
                with self._path.open("rb") as source, Path(f"{self._path}.cut").open("ab") as aside:
                    source.seek(length)
                    shutil.copyfileobj(source, aside)
                    aside.flush()
                    os.fsync(aside.fileno())
            self._file.truncate(length)
        self._length = length

    def close(self) -> None:
        """Flush and close the file."""
        try:
            self.flush()
        finally:
            self._file.close()

    def _append(self) -> None:
        written = 0
        with memoryview(self._pending) as rows:
            while written < len(rows):
                written += self._file.write(rows[written:])
        self._pending.clear()
        self._length += written


def table_file(folder: Path, writer: str) -> Path:
    """Return one process's file in the folder of a table."""
    return folder / f"{writer}.jsonl"


def check_cut(path: Path, length: int) -> None:
    """Raise AnalyticsError unless a row of a table's file ends after `length` bytes, or none has begun."""
    with reading(path):
        if length and not path.exists():
            raise AnalyticsError(f"{path} has gone, where the checkpoint knew {length} bytes")
        if length and length > (end := end_of_last_line(path)):
            raise AnalyticsError(f"{path} has lost rows: it is {end} bytes long, where the checkpoint knew {length}")
        if length and _read(path, length - 1, 1) != b"\n":
            raise AnalyticsError(f"{path} does not fit the checkpoint: no row ends after its {length} bytes")


def last_line(path: Path) -> bytes:
    """Return the last whole row of a table's file, b"" where there is none; raises AnalyticsError."""
    with reading(path):
        if not path.exists():
            return b""
        end = end_of_last_line(path)
        start = max(0, end - _LONGEST_ROW)
        return _read(path, start, end - start).rstrip(b"\n").rpartition(b"\n")[2]


def _read(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


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
            _sync(temporary[path])

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
            _sync(temporary)
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
        if isinstance(error, FileNotFoundError) and not path.parent.exists():
            raise AnalyticsError(f"cannot write {path}: there is no folder {path.parent}") from error
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
        _sync(folder)


def _beside(path: Path) -> Path:
    """Return a name for what will take the place of `path`: its suffix still says what it holds."""
    return path.with_name(f".{os.getpid()}.{path.name}")


def end_of_last_line(path: Path) -> int:
    """Return where the last whole line ends: a process that was killed may have left half a line after it."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.rfind(b"\n") + 1


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
