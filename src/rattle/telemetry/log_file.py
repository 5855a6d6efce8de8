"""A file of lines of bounded size, which several processes may write to."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class LogFile:
    """Appends to a file; one that is full is renamed to FILE.1, the one before to FILE.2, and so on.

    Methods raise OSError for what the disk does not take.
    """

    def __init__(self, path: Path, max_bytes: int, kept: int) -> None:
        """Append to `path`; `kept` full files are kept next to it, of up to `max_bytes` each."""
        self._path = path
        self._max_bytes = max_bytes
        self._kept = kept
        self._file: int | None = None
        self._is_torn = False  # the last line was not written whole

    def write(self, lines: bytes) -> None:
        """Append whole lines."""
        file = self._opened()
        if self._is_torn:
            lines = b"\n" + lines
        while lines:
            done = os.write(file, lines)
            self._is_torn, lines = True, lines[done:]
        self._is_torn = False

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> int:
        """Return the file, open, and with room in it; another process, or somebody, may have renamed it."""
        if self._file is None or not self._is_there():
            self._open()
        assert self._file is not None  # noqa: S101 - for the type checker
        if os.fstat(self._file).st_size >= self._max_bytes:
            self._rotate()
        return self._file

    def _open(self) -> None:
        self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _is_there(self) -> bool:
        """Whether the path still leads to the file that is open."""
        try:
            there, here = self._path.stat(), os.fstat(self._file or 0)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def _rotate(self) -> None:
        """Rename the full file and begin another, unless another process has just done so."""
        file = self._file or 0
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with the file
        if self._is_there():
            for number in range(self._kept, 0, -1):
                before = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
                with suppress(FileNotFoundError):
                    before.replace(self._path.with_name(f"{self._path.name}.{number}"))
        self._open()
