"""The files of a table that is written as JSON lines: the live tail, and the parts that were closed before it.

A process writes WRITER.jsonl. When that is long it becomes WRITER-START-END.jsonl, which nobody changes any more, and
later WRITER-START-END.parquet with the same rows. START and END are places in the text that the process has written
from the beginning: the tail begins where the last part ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rattle.analytics.errors import AnalyticsError, reading

TEXT: Final = ".jsonl"
PACKED: Final = ".parquet"
_PART: Final = re.compile(r"(?P<writer>.+)-(?P<start>\d{15})-(?P<end>\d{15})\.(?:jsonl|parquet)")


@dataclass(frozen=True, order=True)
class TablePart:
    """A closed part of a table."""

    start: int
    end: int
    path: Path

    @property
    def is_packed(self) -> bool:
        """Whether it is a Parquet file."""
        return self.path.suffix == PACKED

    @property
    def packed_path(self) -> Path:
        """Return where its rows are as Parquet, or will be."""
        return self.path.with_suffix(PACKED)


def tail_file(folder: Path, writer: str) -> Path:
    """Return the file in the folder of a table that a process appends to."""
    return folder / f"{writer}{TEXT}"


def part_file(folder: Path, writer: str, start: int, end: int) -> Path:
    """Return where a process's tail is put when it is closed."""
    return folder / f"{writer}-{start:015d}-{end:015d}{TEXT}"


def text_length(path: Path) -> int | None:
    """Return how many bytes of text a closed part holds, or held before it was packed; None for other files."""
    match = _PART.fullmatch(path.name)
    return int(match["end"]) - int(match["start"]) if match else None


def list_parts(folder: Path, writer: str) -> list[TablePart]:
    """List the closed parts of a process in their order; of the two forms of a part, the Parquet file."""
    found = ((path, _PART.fullmatch(path.name)) for path in without_doubles(_entries(folder)))
    return sorted(
        TablePart(int(match["start"]), int(match["end"]), path)
        for path, match in found
        if match and match["writer"] == writer
    )


def parts_to_reach(folder: Path, writer: str, length: int) -> list[TablePart]:
    """List the parts, without a gap before a place in the text that they stand for; raises AnalyticsError."""
    parts = list_parts(folder, writer)
    end = 0
    for part in parts:
        if part.start != end and end < length:
            path = tail_file(folder, writer)
            raise AnalyticsError(
                f"{path} has lost rows: its parts end at byte {end}, where the next begins at {part.start}"
            )
        end = part.end
    return parts


def table_files(folder: Path, suffixes: Iterable[str] = (TEXT, PACKED)) -> list[Path]:
    """List the files that hold the rows of a table, each row once; raises AnalyticsError."""
    wanted = frozenset(suffixes)
    with reading(folder):
        return without_doubles(path for path in _entries(folder) if path.suffix in wanted)


def without_doubles(paths: Iterable[Path]) -> list[Path]:
    """Return the paths in their order, without the text of parts that are packed too."""
    found = sorted(paths)
    packed = {path.stem for path in found if path.suffix == PACKED}
    return [path for path in found if path.suffix != TEXT or path.stem not in packed]


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if not path.name.startswith(".") and path.suffix in (TEXT, PACKED)]
