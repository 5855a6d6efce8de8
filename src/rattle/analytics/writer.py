"""Append-only tables of a run directory: buffered, flushed together, and cut back to a known point on resume."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec

_encoder = msgspec.json.Encoder()


class TableWriter:
    """One process's JSON-lines file of one table."""

    def __init__(self, folder: Path, writer: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{writer}.jsonl"
        self._file: IO[bytes] = self._path.open("ab", buffering=1 << 20)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; they reach the file at the next `flush` at the latest."""
        self._file.write(_encoder.encode_lines(rows))

    def flush(self, *, sync: bool = False) -> int:
        """Hand everything to the operating system, with `sync` to the disk; return the file's length in bytes."""
        self._file.flush()
        if sync:
            os.fsync(self._file.fileno())
        return self._file.tell()

    def truncate(self, length: int) -> None:
        """Drop what was written after the file was `length` bytes long."""
        self._file.flush()
        os.truncate(self._path, length)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file so that a crash at any moment leaves the old or the new content, whole.

    A failed write (a full disk) removes what it had begun and leaves the old content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
