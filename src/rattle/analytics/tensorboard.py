"""TensorBoard event files, as a second way to look at the tables `updates` and `evaluations`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from rattle.analytics.extras import require
from rattle.analytics.writer import storing

#: The tag under which each column appears; the horizontal axis is `env_steps`.
TAGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "mean_return": "episodes/mean_return",
        "mean_episode_length": "episodes/mean_length",
        "policy_loss": "learning/policy_loss",
        "value_loss": "learning/value_loss",
        "entropy": "learning/entropy",
        "gradient_norm": "learning/gradient_norm",
        "learning_rate": "learning/learning_rate",
        "policy_age": "learning/policy_age",
        "env_steps_per_second": "speed/env_steps_per_second",
    }
)
#: The same of `evaluations`.
EVALUATION_TAGS: Final[Mapping[str, str]] = MappingProxyType(
    {"mean_return": "evaluations/mean_return", "mean_episode_length": "evaluations/mean_length"}
)

_FLUSH_AFTER: Final = 5.0  # seconds

_Event = tuple[Mapping[str, Any], Mapping[str, float | None]]  # a row, and what is shown of it by tag


class TensorBoardWriter:
    """Writes rows of tables as scalars; raises AnalyticsError when tensorboardX is missing or the disk is full.

    It writes events itself: the library's own summary writer does that in a thread which a full disk ends, and then
    waits for it forever.
    """

    def __init__(self, folder: Path) -> None:
        self._files = require("tensorboardX.event_file_writer", "tensorboard", "TensorBoard output")
        self._events = require("tensorboardX.proto.event_pb2", "tensorboard", "TensorBoard output")
        self._folder = folder
        self._writer: Any = None
        self._flushed = 0.0
        self._waiting: list[_Event] = []

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row of `updates` with its metrics; columns that are null or missing are left out."""
        shown = {tag: row.get(column) for column, tag in TAGS.items()}
        shown |= {f"learning/{name}": value for name, value in row.get("metrics", {}).items()}
        self._write(row, shown, self._waiting)
        self._waiting = []

    def write_evaluation(self, row: Mapping[str, Any]) -> None:
        """Add one row of `evaluations` with its metrics, after the next update if that is the first."""
        shown = {tag: row[column] for column, tag in EVALUATION_TAGS.items()}
        shown |= {f"evaluations/mean_{name}": value for name, value in row["metrics"].items()}
        if self._writer is None:  # a file begins with an update: TensorBoard drops what others say of later steps
            self._waiting.append((row, shown))
        else:
            self._write(row, shown)

    def _write(self, row: Mapping[str, Any], shown: Mapping[str, float | None], then: Sequence[_Event] = ()) -> None:
        when, step = _seconds(row["time"]), int(row["env_steps"])
        with storing(self._folder):
            if self._writer is None:
                self._open(when, step)
            event = self._events.Event(wall_time=when, step=step)
            for tag, value in shown.items():
                if value is not None:
                    event.summary.value.add(tag=tag, simple_value=float(value))
            self._writer.write_event(event)
            if time.monotonic() > self._flushed + _FLUSH_AFTER:
                self._writer.flush()
                self._flushed = time.monotonic()
        for waiting in then:
            self._write(*waiting)

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            with storing(self._folder):
                self._writer.close()

    def _open(self, when: float, step: int) -> None:
        """Begin a file of its own; TensorBoard drops what earlier files say of this step and later ones.

        A run that goes on from a checkpoint plays these again.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = self._files.EventsWriter(str(self._folder / "events"), f".{os.getpid()}.from-{step}")
        log = self._events.SessionLog(status=self._events.SessionLog.START)
        self._writer.write_event(self._events.Event(wall_time=when, step=step, session_log=log))


def _seconds(moment: datetime | str) -> float:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment.timestamp()
