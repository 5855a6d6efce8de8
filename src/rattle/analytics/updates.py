"""The table `updates` of a run, read as arrays without the SQL engine."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.analytics.errors import AnalyticsError, reading
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.schema import UPDATES

Curve = NDArray[np.float64]


class _Update(msgspec.Struct):
    """The numbers of a row."""

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


NUMBERS = tuple(name for name in UPDATES if name in _Update.__struct_fields__ and name != "metrics")


def read_updates(run: RunDirectory) -> dict[str, Curve]:
    """Return each column of numbers in `NUMBERS`, and each of the metrics, as float64 (updates,), NaN for null.

    They are in the order of policy versions; metrics follow the columns, by name. Half a line at the end of a file, as
    a run in progress or a killed one leaves it, is left out. Raises AnalyticsError when a file is damaged or cannot be
    read.
    """
    decoder = msgspec.json.Decoder(_Update)
    rows: list[_Update] = []
    with reading(run.table("updates")):
        paths = sorted(run.table("updates").glob("*.jsonl"))
    for path in paths:
        with reading(path):
            content = path.read_bytes()
        try:
            rows += decoder.decode_lines(content[: content.rfind(b"\n") + 1])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise AnalyticsError(f"{path} is damaged: {error}") from None
    rows.sort(key=lambda row: row.policy_version)
    columns = {name: [getattr(row, name) for row in rows] for name in NUMBERS}
    for name in sorted({name for row in rows for name in row.metrics}):
        columns[name] = [row.metrics.get(name) for row in rows]
    return {name: np.array(values, np.float64) for name, values in columns.items()}
