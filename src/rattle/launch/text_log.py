"""What a process wrote, in a text file of bounded size."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

#: A file that is longer is put aside, over the one that was put aside before.
MOST_BYTES = 2**23


class TextLog:
    """Appends to a file; what the disk does not take is lost, and breaks nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def write(self, text: bytes) -> None:
        """Append some text."""
        with suppress(OSError):
            if self._file.tell() > MOST_BYTES:
                self._path.replace(self._path.with_suffix(".old"))
                self._file.close()
                self._file = self._path.open("ab", buffering=0)
            self._file.write(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
