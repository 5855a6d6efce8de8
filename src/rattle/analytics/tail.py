"""A table of a run that grows: each look gives the rows that were appended since the last one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Generic, TypeVar

import msgspec

from rattle.analytics.errors import AnalyticsError, reading
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.table_parts import PACKED, TEXT, table_files, text_length

Block = TypeVar("Block")

#: Bytes that are read at a time; a longer row is read too.
_BLOCK: Final = 1 << 24
#: Bytes before the end of what was read, by which a file is known again.
_KNOWN_BY: Final = 256


@dataclass
class _Known:
    """A file as far as it was read."""

    inode: int  # 0 for a packed one, which is read once
    length: int = 0  # up to the end of a row
    last: bytes = b""  # before that


class Rewound(Exception):
    """A file of the table holds other rows than those that were given: begin again."""


class TableTail(Generic[Block]):
    """Reads one table in blocks; a file that is cut back, as by a resume, is noticed.

    `decode` makes a block of whole lines, and `unpack` of a packed file.
    """

    def __init__(
        self, run: RunDirectory, table: str, decode: Callable[[bytes], Block], unpack: Callable[[Path], Block]
    ) -> None:
        self._folder = run.table(table)
        self._decode = decode
        self._unpack = unpack
        self._files: dict[Path, _Known] = {}

    def blocks(self) -> Iterator[Block]:
        """Give the new rows. Half a line at the end of a file waits until it is whole.

        Raises Rewound where what was given before does not hold any more: a new tail gives all rows. Raises
        AnalyticsError when a file is damaged or cannot be read.
        """
        paths = table_files(self._folder)
        self._follow(paths)
        for path in paths:
            if path.suffix == PACKED:
                if path not in self._files:
                    yield self._unpack(path)
                    self._files[path] = _Known(0, length=1)
                continue
            with reading(path), path.open("rb") as file:
                for lines in self._new_lines(path, file):
                    try:
                        yield self._decode(lines)
                    except (msgspec.DecodeError, UnicodeDecodeError) as error:
                        raise AnalyticsError(f"{path} is damaged: {error}") from None

    def _follow(self, paths: Sequence[Path]) -> None:
        """Know files again that were closed, which renames them, or packed when they had been read to their end."""
        by_inode = {known.inode: path for path, known in self._files.items()}
        for path in paths:
            text = path.with_suffix(TEXT)
            if path.suffix == PACKED and text in self._files and self._files[text].length == text_length(path):
                del self._files[text]
                self._files[path] = _Known(0, length=1)
            elif path.suffix == TEXT and path not in self._files:
                inode = _inode(path)
                if inode in by_inode:
                    self._files[path] = self._files.pop(by_inode[inode])
        for gone in self._files.keys() - set(paths):
            if self._files.pop(gone).length:  # else it had given no rows
                raise Rewound

    def _new_lines(self, path: Path, file: BinaryIO) -> Iterator[bytes]:
        inode = os.fstat(file.fileno()).st_ino
        known = self._files.get(path)
        if known is None or not known.length:  # it has given no rows
            known = self._files[path] = _Known(inode)
        file.seek(known.length - len(known.last))
        if known.inode != inode or file.read(len(known.last)) != known.last:
            raise Rewound
        while (block := _whole_lines(file)) and (end := block.rfind(b"\n") + 1):
            known.length += end
            known.last = block[max(0, end - _KNOWN_BY) : end]
            file.seek(known.length)
            yield block[:end]


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:  # it was closed or packed just now
        return None


def _whole_lines(file: BinaryIO) -> bytes:
    """Return the next bytes of a file: at least one whole line, where there is one."""
    block = file.read(_BLOCK)
    while b"\n" not in block and (more := file.read(_BLOCK)):
        block += more
    return block
