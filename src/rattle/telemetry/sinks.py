"""Where rows of tables go: the interface that stands below a run's tables and below the logger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

#: How far tables reach, by what a sink keeps of it, and the update after which they did; checkpoints store it.
Mark = Mapping[str, int]

#: The number, in a mark, of the newest update.
UPDATE = "update"


class TableSink(Protocol):
    """Takes rows of tables; `rattle.analytics.schema` has their columns.

    A row of `steps` is an episode: its columns as arrays with an entry a tick, as `as_episode` returns them.
    """

    def append(self, table: str, rows: Sequence[Mapping[str, Any]], made_by: int = 0) -> None:
        """Take rows of a table; those of a run are made by an update, or seen when it was made."""

    def mark(self) -> tuple[dict[str, int], Callable[[], None]]:
        """Return what `cut_back` takes to come back to here, and what makes all rows so far durable.

        Another thread may call that while this one appends more. It raises AnalyticsError.
        """

    def cut_back(self, mark: Mark, *, keep: bool = False) -> None:
        """Drop what a run has appended after a mark, except logs; with `keep`, put it aside where that is possible."""

    def show(self) -> None:
        """Let readers see the rows so far."""

    def close(self) -> None:
        """Bring out what is left, as far as that is possible in short time."""
