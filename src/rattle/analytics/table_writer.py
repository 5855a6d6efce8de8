"""Append-only tables of a run directory: buffered, flushed together, and cut back to a known point on resume."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from rattle.analytics.errors import AnalyticsError, reading
from rattle.analytics.packing import pack, unpack_last
from rattle.analytics.table_parts import PACKED, TEXT, TablePart, list_parts, part_file, parts_to_reach, tail_file
from rattle.analytics.writer import end_of_last_line, put_aside, storing, sync_file, write_atomically
from rattle.events import emit, of_runs
from rattle.text import one_line

_encoder = msgspec.json.Encoder()

_FLUSH_AT: Final = 1 << 20  # bytes
_LONGEST_ROW: Final = 1 << 16  # bytes that the last row is looked for in
#: A tail that is as long as this is closed at the next mark, in bytes.
PART_BYTES = 1 << 25
#: Parts whose rows are none of their table: they stay text.
_not_packed: set[Path] = set()


class TableWriter:
    """One process's rows of one table; methods raise AnalyticsError when the disk does not take them.

    Lengths count the bytes of the text that was ever written, whichever file holds them now: see `table_parts`.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        self._folder = folder
        self._writer = writer
        self._path = tail_file(folder, writer)
        self._pending = bytearray()
        self._unsynced: list[Path] = []
        with storing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._begin = max((part.end for part in list_parts(folder, writer)), default=0)
            self._file = self._path.open("ab", buffering=0)
            self._length = self._begin + end_of_last_line(self._path)
            self._file.truncate(self._length - self._begin)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; they reach the file at the next `flush` at the latest."""
        self._pending += _encoder.encode_lines(rows)
        if len(self._pending) >= _FLUSH_AT:
            self.flush()

    def flush(self) -> int:
        """Hand everything to the operating system and return the length.

        When that fails the file ends where it ended before, and the rows stay here for the next attempt.
        """
        with storing(self._path):
            try:
                self._append()
            except OSError:
                self._file.truncate(self._length - self._begin)
                raise
        return self._length

    def forget(self) -> None:
        """Drop the rows that `flush` could not write."""
        self._pending.clear()

    def close_part(self) -> None:
        """Begin a new tail where what was flushed to the one so far is as long as a part may be."""
        if self._length - self._begin < PART_BYTES:
            return
        part = part_file(self._folder, self._writer, self._begin, self._length)
        with storing(part):
            self._path.replace(part)
            self._file.close()
            self._file = self._path.open("ab", buffering=0)
        self._unsynced.append(part)
        self._begin = self._length

    def sync(self) -> None:
        """Bring what was flushed before to the disk; another thread may write and flush meanwhile."""
        closed, self._unsynced = self._unsynced, []
        with storing(self._path):
            for path in closed:
                sync_file(path)
            sync_file(self._path)
            if closed:
                sync_file(self._folder)

    def truncate(self, length: int, *, keep: bool = False) -> None:
        """Drop what was written after the first `length` bytes; with `keep`, append it to PATH.cut.

        Raises AnalyticsError as `check_cut` does.
        """
        check_cut(self._folder, self._writer, length)
        self._pending.clear()
        with storing(self._path):
            later = [part for part in list_parts(self._folder, self._writer) if part.end > length]
            if keep:
                self._copy_aside(length, later)
            if later:
                self._open_again(length, later)
            self._file.truncate(length - self._begin)
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

    def _copy_aside(self, length: int, later: Sequence[TablePart]) -> None:
        """Append the text that was written after `length` bytes to PATH.cut; packed parts are put aside as they are."""
        texts = [(part.path, part.start) for part in later if not part.is_packed]
        with Path(f"{self._path}.cut").open("ab") as aside:
            for path, start in (*texts, (self._path, self._begin)):
                with path.open("rb") as source:
                    source.seek(max(0, length - start))
                    shutil.copyfileobj(source, aside)
            aside.flush()
            os.fsync(aside.fileno())
        for part in reversed(later):
            if part.is_packed:
                put_aside(part.path, "cut")

    def _open_again(self, length: int, later: Sequence[TablePart]) -> None:
        """Drop parts, the newest first, and have the tail be what holds the end of the first `length` bytes."""
        self._file.truncate(0)
        first = later[0]
        for part in reversed(later):
            part.packed_path.unlink(missing_ok=True)
            if part is not first or first.start >= length:
                part.packed_path.with_suffix(TEXT).unlink(missing_ok=True)
        self._begin = length
        if first.start < length:  # which is text, as `check_cut` has seen
            self._file.close()
            first.path.replace(self._path)
            self._file = self._path.open("ab", buffering=0)
            self._begin = first.start


def pack_parts(folder: Path, writer: str, table: str, length: int) -> None:
    """Turn closed parts within the first `length` bytes of a table into Parquet files.

    Their text stays until the next call, for those who read it now. What cannot be turned stays text. Raises
    AnalyticsError when the disk does not take it.
    """
    with storing(folder):
        parts = list_parts(folder, writer)
        for part in parts:
            if part.is_packed:
                part.path.with_suffix(TEXT).unlink(missing_ok=True)
    for part in parts:
        if part.is_packed or part.end > length or part.path in _not_packed:
            continue
        with reading(part.path):
            lines = part.path.read_bytes()
        try:
            packed = pack(lines, table)
        except (ValueError, NotImplementedError) as error:
            _not_packed.add(part.path)
            emit(of_runs.PartStaysText(path=str(part.path), error=one_line(error, 200)))
        else:
            write_atomically(part.packed_path, packed)


def check_cut(folder: Path, writer: str, length: int) -> None:
    """Raise AnalyticsError unless a row of a process's part of a table ends after `length` bytes, or none has begun."""
    path = tail_file(folder, writer)
    with reading(path):
        parts = parts_to_reach(folder, writer, length)
        begin = parts[-1].end if parts else 0
        if length > begin and not path.exists():
            raise AnalyticsError(f"{path} no longer exists, where the checkpoint knew {length} bytes")
        if length > begin and length > (end := begin + end_of_last_line(path)):
            raise AnalyticsError(f"{path} has lost rows: it is {end} bytes long, where the checkpoint knew {length}")
        holding = next((part for part in parts if part.start < length < part.end), None)
        if holding is not None and holding.is_packed:
            raise AnalyticsError(
                f"{holding.path} does not fit the checkpoint, which is older than those that were kept"
            )
        file, start = (path, begin) if length > begin else (holding.path, holding.start) if holding else (path, length)
        if length > start and _read(file, length - start - 1, 1) != b"\n":
            raise AnalyticsError(f"{file} does not fit the checkpoint: no row ends after its {length - start} bytes")


def last_row(folder: Path, writer: str) -> bytes:
    """Return the last whole row that a process has written of a table as JSON, b"" where there is none.

    Raises AnalyticsError.
    """
    path = tail_file(folder, writer)
    for file in (path, *(part.path for part in reversed(list_parts(folder, writer)))):
        with reading(file):
            if not file.exists():
                continue
            if file.suffix == PACKED:
                return unpack_last(file)
            end = end_of_last_line(file)
            start = max(0, end - _LONGEST_ROW)
            if end:
                return _read(file, start, end - start).rstrip(b"\n").rpartition(b"\n")[2]
    return b""


def _read(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)
