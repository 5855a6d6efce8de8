"""A table of a run that grows: each look gives the rows that were appended since the last one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Generic, TypeVar

import msgspec

from rattle.analytics.errors import AnalyticsError, reading
from rattle.analytics.packing import unpack_as
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.table_parts import PACKED, table_files

Row = TypeVar("Row", bound=msgspec.Struct)

#: Bytes that are read at a time; a longer row is read too.
_BLOCK: Final = 1 << 24
#: Bytes before the end of what was read, by which a file is known again.
_KNOWN_BY: Final = 256


@dataclass
class _Known:
    """A file as far as it was read."""

    inode: int
    length: int = 0  # up to the end of a row
    last: bytes = b""  # before that


class Rewound(Exception):
    """A file of the table holds other rows than those that were given: begin anew."""


@dataclass
class TableTail(Generic[Row]):
    """Reads one table; a file that is cut back, as by a resume, or that becomes another, is noticed."""

    run: RunDirectory
    table: str
    kind: type[Row]
    _files: dict[Path, _Known] = field(default_factory=dict)

    def blocks(self) -> Iterator[list[Row]]:
        """Give the new rows, in blocks. Half a line at the end of a file waits until it is whole.

        Raises Rewound where what was given before does not hold any more: a new tail gives all rows. Raises
        AnalyticsError when a file is damaged or cannot be read.
        """
        decoder = msgspec.json.Decoder(self.kind)
        paths = table_files(self.run.table(self.table))
        if self._files.keys() - set(paths):
            raise Rewound
        for path in paths:
            if path.suffix == PACKED:
                if path not in self._files:
                    yield unpack_as(path, self.kind)
                    self._files[path] = _Known(path.stat().st_ino)
                continue
            with reading(path), path.open("rb") as file:
                for lines in self._new_lines(path, file):
                    try:
                        yield decoder.decode_lines(lines)
                    except (msgspec.DecodeError, UnicodeDecodeError) as error:
                        raise AnalyticsError(f"{path} is damaged: {error}") from None

    def _new_lines(self, path: Path, file: BinaryIO) -> Iterator[bytes]:
        inode = os.fstat(file.fileno()).st_ino
        known = self._files.setdefault(path, _Known(inode))
        file.seek(known.length - len(known.last))
        if known.inode != inode or file.read(len(known.last)) != known.last:
            raise Rewound
        while (block := _whole_lines(file)) and (end := block.rfind(b"\n") + 1):
            known.length += end
            known.last = block[max(0, end - _KNOWN_BY) : end]
            file.seek(known.length)
            yield block[:end]


def _whole_lines(file: BinaryIO) -> bytes:
    """Return the next bytes of a file: at least one whole line, where there is one."""
    block = file.read(_BLOCK)
    while b"\n" not in block and (more := file.read(_BLOCK)):
        block += more
    return block
