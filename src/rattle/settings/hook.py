"""What a hook is: a class of a user that follows a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from rattle.envs.validation import StrictSettings
from rattle.learning.metrics import Metric


@dataclass(frozen=True)
class RunInfo:
    """The run that a hook sees."""

    run_id: str
    path: Path  # of the run directory
    seed: int
    update: int  # that the run begins or continues after
    settings: Mapping[str, Any]  # of the experiment, as in config.yaml


class Hook:
    """Sees a run begin, learn, store checkpoints and end; may ask it to stop, and report numbers of its own.

    A subclass overrides what it needs. All is called in the process and the thread that writes the run down: between
    two updates, so it should return soon. What it raises ends the run as failed, with what has been learnt.
    """

    #: What is next to `use` in the experiment; a subclass may have a class of its own here.
    Settings: ClassVar[type[BaseModel]] = StrictSettings

    #: What it reports, by name.
    metrics: ClassVar[tuple[Metric, ...]] = ()

    def __init__(self, settings: Any) -> None:
        """Take the settings, an instance of its `Settings`; made before a run begins, it should open nothing yet."""
        self.settings = settings

    def on_start(self, run: RunInfo) -> None:
        """Called before the first update of a command, after `restore` where the run continues."""

    def on_episodes(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the episodes that ended in an update, as rows of the table `episodes`, before its `on_update`."""

    def on_update(self, row: Mapping[str, Any]) -> None:
        """Take an update, as a row of the table `updates`; its metrics hold what hooks before this one report."""

    def on_evaluation(self, row: Mapping[str, Any]) -> None:
        """Take an evaluation, as a row of the table `evaluations`; it may be of an earlier update than the last."""

    def on_checkpoint(self, path: Path) -> None:
        """Called after a checkpoint has been stored in a file, soon; it is deleted when newer ones have come."""

    def on_end(self, status: Literal["finished", "interrupted", "failed"]) -> None:
        """Called after the last update of a command, before its checkpoint is taken."""

    def state(self) -> Mapping[str, Any]:
        """Return what it must not forget: JSON values and NumPy arrays by name, which checkpoints store."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""

    def stop(self, reason: str) -> None:
        """Have the run end, as finished, after this update."""
        self._reason = str(reason)

    def report(self, **metrics: float) -> None:
        """Have the row of this update hold numbers of its own, by the names in `metrics`."""
        declared = {metric.name for metric in self.metrics}
        for name, value in metrics.items():
            if name not in declared:
                raise ValueError(f"reports '{name}', which is none of its metrics")
            if not isfinite(value):
                raise ValueError(f"reports {value} as '{name}', where a finite number is wanted")
        self._reported = {**self._reported, **{name: float(value) for name, value in metrics.items()}}

    _reason: str | None = None
    _reported: Mapping[str, float] = {}  # never changed in place
