"""Recorded episodes: collected as arrays and stored as Parquet files, each complete when it appears."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.analytics.schema import STEPS
from rattle.analytics.writer import put_aside, storing, write_atomically

if TYPE_CHECKING:
    import pyarrow

_encoder = msgspec.json.Encoder()

_DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "UInt32": np.dtype(np.uint32),
        "UInt64": np.dtype(np.uint64),
        "Nullable(Int32)": np.dtype(np.int32),
        "Float32": np.dtype(np.float32),
        "Bool": np.dtype(np.bool_),
        "String": np.dtype(np.object_),
        "Array(Float32)": np.dtype(np.float32),
    }
)


def encode_state(snapshot: Mapping[str, Any]) -> str:
    """Return a world's snapshot, such as `SnakeWorlds.snapshot` gives it, as an entry of the column `state`."""
    return _encoder.encode(snapshot).decode()


class StepsWriter:
    """One process's Parquet files of the table `steps`, numbered WRITER-000000.parquet, WRITER-000001.parquet, ..."""

    def __init__(self, folder: Path, writer: str) -> None:
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._writer = writer
        self._episodes: list[Mapping[str, NDArray[Any]]] = []
        self._count = max(self._numbers(), default=-1) + 1

    def append(self, episode: Mapping[str, NDArray[Any]]) -> None:
        """Take an episode that `as_episode` has returned; it is stored by the next `begin_flush`."""
        self._episodes.append(episode)

    def begin_flush(self) -> tuple[int, Callable[[], None]]:
        """Return the number of files as it will be, and what stores the episodes so far; another thread may call that.

        Episodes that are added from now on go to the next file; a checkpoint keeps the number for `discard_after`. What
        stores them raises AnalyticsError when the disk does not take them, and may be called again.
        """
        episodes, self._episodes = self._episodes, []
        if not episodes:
            return self._count, lambda: None
        while (path := self._path(self._count)).exists():  # another run's, which was put here
            self._count += 1
        self._count += 1
        return self._count, lambda: write_atomically(path, parquet_of_episodes(episodes))

    def discard_after(self, count: int, run_id: str, *, keep: bool = False) -> None:
        """Delete what a run has written after `count` files, and what was not stored yet: a resume plays it again.

        With `keep`, files are put aside instead, under names that end in `.cut`; so are files of other runs.
        """
        self._episodes.clear()
        with storing(self._folder):
            for number in self._numbers():
                path = self._path(number)
                if number >= count and (keep or not _is_of(path, run_id)):
                    put_aside(path, "cut")
                elif number >= count:
                    path.unlink()
            for unfinished in self._folder.glob(f".*.{self._writer}-*.parquet"):
                unfinished.unlink()
        self._count = count

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._writer}-{number:06}.parquet"

    def _numbers(self) -> list[int]:
        name = re.compile(re.escape(self._writer) + r"-(\d+)\.parquet")
        return [int(match[1]) for path in self._folder.iterdir() if (match := name.fullmatch(path.name))]


def as_episode(columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return one agent's finished episode of n ticks as arrays of its own.

    `columns` has every column of `steps`: an array of n entries ((n, size) for `observation` and `action_row`, n
    strings for `state`, "" where another row of the tick has it), or one value for all rows. The number of ticks is
    that of `tick`. Raises ValueError for missing, unknown and misshapen columns.
    """
    if columns.keys() != STEPS.keys():
        wrong = sorted(columns.keys() ^ STEPS.keys())
        raise ValueError(f"an episode has exactly the columns of `steps`; missing or unknown: {', '.join(wrong)}")
    rows = len(columns["tick"])
    return {name: _column(name, columns[name], rows) for name in STEPS}


def _is_of(path: Path, run_id: str) -> bool:
    """Whether a file holds episodes of the run `run_id` and of no other."""
    import pyarrow
    import pyarrow.parquet

    try:
        runs = pyarrow.parquet.read_table(path, columns=["run_id"]).column("run_id").unique().to_pylist()
    except (pyarrow.ArrowException, OSError, KeyError):
        return False
    return bool(runs == [run_id])


def _column(name: str, values: Any, rows: int) -> NDArray[Any]:
    """Return a copy of the values as an array with one entry a row."""
    kind = STEPS[name]
    column: NDArray[Any] = np.array(values, np.object_ if values is None else _DTYPES[kind])
    if column.ndim == 0:
        return np.full(rows, column[()], column.dtype)
    if column.shape[0] != rows or column.ndim != (2 if kind.startswith("Array") else 1):
        raise ValueError(f"column '{name}' of an episode of {rows} ticks has the shape {column.shape}")
    return column


def parquet_of_episodes(episodes: Sequence[Mapping[str, NDArray[Any]]], *, lasts: bool = True) -> bytes:
    """Return the Parquet file of some episodes, which all have the same columns.

    One that does not last is read once, as a whole: it is larger, and takes half the time to write and to read.
    """
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({name: _arrow([episode[name] for episode in episodes]) for name in episodes[0]})
    file = io.BytesIO()
    if lasts:
        pyarrow.parquet.write_table(table, file, compression="zstd")
    else:  # numbers rarely repeat, and nobody asks for a part of them
        texts = [name for name in table.column_names if pyarrow.types.is_string(table.schema.field(name).type)]
        pyarrow.parquet.write_table(table, file, compression="lz4", use_dictionary=texts, write_statistics=False)
    return file.getvalue()


def _arrow(parts: Sequence[NDArray[Any]]) -> pyarrow.Array:
    """Join one column of several episodes; rows that are arrays themselves may differ in length between episodes."""
    import pyarrow

    if parts[0].ndim == 1:
        column = np.concatenate(parts)
        kind = pyarrow.int32() if column[0] is None else pyarrow.string() if column.dtype == np.object_ else None
        return pyarrow.array(column, kind)
    lengths = np.concatenate([np.full(len(part), part.shape[1], np.int32) for part in parts])
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    return pyarrow.ListArray.from_arrays(offsets, np.concatenate([part.ravel() for part in parts]))
