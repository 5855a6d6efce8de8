"""What hooks share that hand numbers to other tools: a thread of their own, so that no tool holds up training."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from rattle.envs.validation import StrictSettings
from rattle.events import emit, of_telemetry
from rattle.extensions import FOREIGN_ERRORS, what
from rattle.hooks.scalars import OF_EVALUATIONS, Scalars, of_evaluation, of_update
from rattle.settings.hook import Hook, RunInfo

Status = Literal["finished", "interrupted", "failed"]

#: Rows that wait for a slow tool; of more, the oldest updates are dropped.
_MOST_WAITING = 1000
#: How long the end of a run waits for a slow tool, in seconds.
_PATIENCE = 30.0


class SendingSettings(StrictSettings):
    """Settings of hooks that send."""

    every_seconds: float = Field(
        1.0, ge=0, description="Send the newest update this often, not each; evaluations are all sent."
    )


class Sending(Hook):
    """Sends updates and evaluations from a thread of its own.

    A subclass says how: `open` may raise, and the run does not begin; what `send` raises is said once, in a warning,
    and the run continues.
    """

    Settings = SendingSettings

    _is_started = False

    #: The name of the tool, for messages.
    tool: ClassVar[str]

    def open(self, run: RunInfo) -> None:
        """Begin, or continue with, what the tool calls a run."""
        raise NotImplementedError

    def send(self, scalars: Scalars, env_steps: int, seconds: float) -> None:
        """Send numbers that belong to so many environment steps; `seconds` is their time, since 1970."""
        raise NotImplementedError

    def close(self, status: Status) -> None:
        """End what the tool calls a run."""
        raise NotImplementedError

    def on_start(self, run: RunInfo) -> None:
        """Begin to send."""
        self.open(run)
        self._due = 0.0
        self._newest: Mapping[str, Any] | None = None  # an update that is not sent yet
        self._failed = self._dropped = 0
        self._waiting: queue.Queue[tuple[Scalars, int, float] | Status] = queue.Queue()  # rows, then the result of them
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._thread.start()
        self._is_started = True

    def on_update(self, row: Mapping[str, Any]) -> None:
        """Send an update if it is time."""
        self._newest = row
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self.settings.every_seconds
            self._send_newest()

    def on_evaluation(self, row: Mapping[str, Any]) -> None:
        """Send an evaluation."""
        self._put(of_evaluation(row), row)

    def on_end(self, status: Status) -> None:
        """Send the last update and the end, and wait for the tool, but not for long."""
        if not self._is_started:
            return
        self._is_started = False
        self._send_newest()
        self._waiting.put(status)
        self._thread.join(_PATIENCE)
        lost = self._failed + self._dropped + self._waiting.qsize()
        if lost or self._thread.is_alive():
            emit(of_telemetry.ToolLacksRows(tool=self.tool, rows=lost))

    def _send_newest(self) -> None:
        if self._newest is not None:
            self._put(of_update(self._newest), self._newest)
            self._newest = None

    def _put(self, scalars: Scalars, row: Mapping[str, Any]) -> None:
        with self._waiting.mutex:
            waiting = self._waiting.queue
            if len(waiting) >= _MOST_WAITING:
                del waiting[next((place for place, one in enumerate(waiting) if OF_EVALUATIONS not in one[0]), 0)]
                self._dropped += 1
        self._waiting.put((scalars, int(row["env_steps"]), datetime.fromisoformat(row["time"]).timestamp()))

    def _run(self) -> None:
        is_over = False
        while not is_over:
            one = self._waiting.get()
            is_over = isinstance(one, str)
            try:
                self.close(one) if isinstance(one, str) else self.send(*one)
            except FOREIGN_ERRORS as error:
                if not self._failed:
                    emit(of_telemetry.ToolFailed(tool=self.tool, error=what(error)))
                self._failed += 1
