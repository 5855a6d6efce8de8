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
    policy_loss: float
    value_loss: float
    entropy: float
    gradient_norm: float
    learning_rate: float
    policy_age: float | None = None
    max_policy_age: float | None = None


NUMBERS = tuple(name for name in UPDATES if name in _Update.__struct_fields__)


def read_updates(run: RunDirectory) -> dict[str, Curve]:
    """Return each column of numbers in `NUMBERS` as float64 (updates,), NaN for null, in the order of policy versions.

    Half a line at the end of a file, as a run in progress or a killed one leaves it, is left out. Raises
    AnalyticsError when a file is damaged or cannot be read.
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
    return {name: np.array([getattr(row, name) for row in rows], np.float64) for name in NUMBERS}
