"""The tables `updates` and `evaluations` of a run, read as arrays without the SQL engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.analytics.errors import AnalyticsError, reading
from rattle.analytics.packing import unpack_as
from rattle.analytics.schema import UPDATES
from rattle.analytics.stored_runs import AnyRun, StoredRun
from rattle.analytics.table_parts import PACKED, table_files

Curve = NDArray[np.float64]


class UpdateRow(msgspec.Struct, gc=False):
    """The numbers of a row of `updates`."""

    policy_version: float
    env_steps: float
    seconds: float
    env_steps_per_second: float
    episodes: float
    mean_return: float | None
    mean_episode_length: float | None
    policy_loss: float | None = None
    value_loss: float | None = None
    entropy: float | None = None
    gradient_norm: float | None = None
    learning_rate: float | None = None
    policy_age: float | None = None
    max_policy_age: float | None = None
    metrics: dict[str, float] = {}


class _Evaluation(msgspec.Struct):
    """The numbers of a row that are drawn."""

    policy_version: float
    env_steps: float
    seconds: float
    mean_return: float
    std_return: float


Row = TypeVar("Row", UpdateRow, _Evaluation)

NUMBERS = tuple(name for name in UPDATES if name in UpdateRow.__struct_fields__ and name != "metrics")


def read_updates(run: AnyRun) -> dict[str, Curve]:
    """Return each column of numbers in `NUMBERS`, and each of the metrics, as float64 (updates,), NaN for null.

    They are in the order of policy versions; metrics follow the columns, by name. Half a line at the end of a file, as
    a run in progress or a killed one leaves it, is left out. Raises AnalyticsError when a file is damaged or cannot be
    read.
    """
    return update_columns(_read(run, "updates", UpdateRow))


def update_columns(rows: Sequence[UpdateRow]) -> dict[str, Curve]:
    """Return rows as columns, as `read_updates` does."""
    columns = {name: [getattr(row, name) for row in rows] for name in NUMBERS}
    for name in sorted({name for row in rows for name in row.metrics}):
        columns[name] = [row.metrics.get(name) for row in rows]
    return {name: np.array(values, np.float64) for name, values in columns.items()}


def read_evaluations(run: AnyRun) -> dict[str, Curve]:
    """Return numbers of the evaluations as float64 (evaluations,), by column; as `read_updates` in all else."""
    rows = _read(run, "evaluations", _Evaluation)
    return {name: np.array([getattr(row, name) for row in rows]) for name in _Evaluation.__struct_fields__}


def _read(run: AnyRun, table: str, kind: type[Row]) -> list[Row]:
    if isinstance(run, StoredRun):
        return run.rows(table, kind, "policy_version")
    decoder = msgspec.json.Decoder(kind)
    rows: list[Row] = []
    for path in table_files(run.table(table)):
        try:
            if path.suffix == PACKED:
                rows += unpack_as(path, kind)
                continue
            with reading(path):
                content = path.read_bytes()
            rows += decoder.decode_lines(content[: content.rfind(b"\n") + 1])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise AnalyticsError(f"{path} is damaged: {error}") from None
    return sorted(rows, key=lambda row: row.policy_version)
