"""TensorBoard event files, as a second way to look at the tables `updates` and `evaluations`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from rattle.analytics.extras import require
from rattle.analytics.writer import storing
from rattle.hooks.scalars import Scalars, of_evaluation, of_update
from rattle.settings.hook import Hook, RunInfo

_FLUSH_AFTER: Final = 5.0  # seconds

_Event = tuple[Mapping[str, Any], Scalars]  # a row, and what is shown of it


class TensorBoard(Hook):
    """Writes event files into the folder tensorboard of the run directory; TensorBoard shows them while it runs."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        for module in ("tensorboardX.event_file_writer", "tensorboardX.proto.event_pb2"):
            require(module, "tensorboard", "TensorBoard output")
        self._writer: TensorBoardWriter | None = None

    def on_start(self, run: RunInfo) -> None:
        """Take the folder; a file is begun with the first update."""
        self._writer = TensorBoardWriter(run.path / "tensorboard")

    def on_update(self, row: Mapping[str, Any]) -> None:
        """Write an update."""
        if self._writer is not None:
            self._writer.write(row)

    def on_evaluation(self, row: Mapping[str, Any]) -> None:
        """Write an evaluation."""
        if self._writer is not None:
            self._writer.write_evaluation(row)

    def on_end(self, status: Literal["finished", "interrupted", "failed"]) -> None:
        """Close the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


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
        """Add one row of `updates` with its metrics."""
        self._write(row, of_update(row), self._waiting)
        self._waiting = []

    def write_evaluation(self, row: Mapping[str, Any]) -> None:
        """Add one row of `evaluations` with its metrics, after the next update if that is the first."""
        if self._writer is None:  # a file begins with an update: TensorBoard drops what others say of later steps
            self._waiting.append((row, of_evaluation(row)))
        else:
            self._write(row, of_evaluation(row))

    def _write(self, row: Mapping[str, Any], shown: Scalars, then: Sequence[_Event] = ()) -> None:
        when, step = _seconds(row["time"]), int(row["env_steps"])
        with storing(self._folder):
            if self._writer is None:
                self._open(when, step)
            event = self._events.Event(wall_time=when, step=step)
            for tag, value in shown.items():
                event.summary.value.add(tag=tag, simple_value=value)
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

        A run that continues from a checkpoint plays these again.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = self._files.EventsWriter(str(self._folder / "events"), f".{os.getpid()}.from-{step}")
        log = self._events.SessionLog(status=self._events.SessionLog.START)
        self._writer.write_event(self._events.Event(wall_time=when, step=step, session_log=log))


def _seconds(moment: datetime | str) -> float:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment.timestamp()
