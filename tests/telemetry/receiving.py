"""Messages of rows as a store keeps them: each row once, and of a run's lives only what counts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

#: What a row of a table is known by, beside its run and life.
IDENTITY = {
    "updates": ("policy_version",),
    "episodes": ("episode_id",),
    "evaluations": ("policy_version",),
    "steps": ("world", "world_episode", "agent", "tick"),
    "runs": ("written",),
    "lives": (),
    "logs": ("writer", "number"),
}
_STORE_ONLY = ("life", "made_by")
_OF_NO_LIFE = ("runs", "logs")


class StoredRows:
    """The rows of one run, in the order in which they arrived first."""

    def __init__(self, messages: Iterable[tuple[Any, bytes]]) -> None:
        self._tables: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {table: {} for table in IDENTITY}
        for properties, body in messages:
            for row in self._read(properties.content_type, body):
                keys = ("run_id", "life", *IDENTITY[properties.type])
                self._tables[properties.type].setdefault(tuple(row.get(key) for key in keys), row)
        self.lives: Sequence[dict[str, Any]] = sorted(self._tables["lives"].values(), key=lambda row: int(row["life"]))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return the rows that count, without the columns that only stores have."""
        counting = [row for row in self._tables[table].values() if table in _OF_NO_LIFE or self._counts(row)]
        newest: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in sorted(counting, key=lambda row: int(row.get("life", 0))):
            newest[tuple(row[key] for key in IDENTITY[table])] = row
        ordered = newest.values() if table == "steps" else (newest[key] for key in sorted(newest))
        return [{name: value for name, value in row.items() if name not in _STORE_ONLY} for row in ordered]

    def _counts(self, row: dict[str, Any]) -> bool:
        later = (life for life in self.lives if life["life"] > row["life"])
        return all(row["made_by"] <= life["after_update"] for life in later)

    def _read(self, content_type: str, body: bytes) -> list[dict[str, Any]]:
        if content_type == "application/x-ndjson":
            return [json.loads(line) for line in body.splitlines()]
        import pyarrow.parquet

        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(body)).to_pylist()
        return rows
