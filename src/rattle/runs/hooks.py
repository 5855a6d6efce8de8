"""The hooks of a run: made, told what happens, asked what they want, and stored with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.envs.validation import settings_of
from rattle.extensions import Extension, WrongResult
from rattle.runs.checkpoint import Checkpoint
from rattle.runs.progress import Status
from rattle.settings.experiment import HookSection
from rattle.settings.hook import Hook, RunInfo
from rattle.text import one_line

#: Of a checkpoint: the part that holds arrays of hooks, and the key of all else that they keep.
_PART = "hooks"


@dataclass
class _Running:
    """A hook that is told what happens until it raises something."""

    key: str  # in checkpoints
    extension: Extension[Hook]
    hook: Hook
    broken: bool = False

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method; raises ExtensionError for what that raises, and calls nothing more afterwards."""
        if self.broken:
            return None
        self.broken = True
        with self.extension.calling(method):
            answer = getattr(self.hook, method)(*arguments)
        self.broken = False
        return answer


class Hooks:
    """The hooks of one run; false where there is none. All methods raise ExtensionError for what a hook raises."""

    def __init__(self, sections: Sequence[HookSection]) -> None:
        self._all = [_make(number, section) for number, section in enumerate(sections)]

    def __bool__(self) -> bool:
        return bool(self._all)

    @property
    def see_episodes(self) -> bool:
        """Whether one of them does something with episodes."""
        return any(type(running.hook).on_episodes is not Hook.on_episodes for running in self._all)

    def start(self, run: RunInfo) -> None:
        """Say that a command begins, or continues with, a run."""
        self._tell("on_start", run)

    def update(self, row: Mapping[str, Any], episodes: Iterable[Mapping[str, Any]]) -> Mapping[str, float]:
        """Tell of an update and of the episodes that ended in it, and return what hooks report."""
        ended = tuple(MappingProxyType(dict(episode)) for episode in episodes)
        if ended:
            self._tell("on_episodes", ended)
        reported: dict[str, float] = {}
        for running in self._all:
            metrics = MappingProxyType({**row["metrics"], **reported})
            running.call("on_update", MappingProxyType({**row, "metrics": metrics}))
            reported |= running.hook._reported
            running.hook._reported = {}
        return reported

    def evaluation(self, row: Mapping[str, Any]) -> None:
        """Tell of an evaluation."""
        self._tell("on_evaluation", MappingProxyType({**row, "metrics": MappingProxyType(dict(row["metrics"]))}))

    def checkpoint(self, path: Path) -> None:
        """Tell of a checkpoint that is stored in a file."""
        self._tell("on_checkpoint", path)

    def end(self, status: Status) -> None:
        """Say that a command has made its last update."""
        self._tell("on_end", status)

    @property
    def why_stop(self) -> str | None:
        """Return who has asked the run to stop, and why, as the end of a sentence; None while nobody has."""
        for running in self._all:
            if running.hook._reason is not None:
                return f"{running.extension.path} has asked it to stop: {one_line(running.hook._reason, 200)}"
        return None

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return what hooks must not forget: arrays, and JSON values."""
        arrays: dict[str, NDArray[Any]] = {}
        values: dict[str, Any] = {}
        for running in self._all:
            with running.extension.calling("state"):
                own = running.hook.state()
                _check(own)
            kept = {name: value for name, value in own.items() if not isinstance(value, np.ndarray)}
            values[running.key] = {"state": kept, "reason": running.hook._reason}
            arrays |= {f"{running.key}/{name}": np.array(value) for name, value in own.items() if name not in kept}
        return arrays, {_PART: values}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue where a checkpoint was taken; hooks that it knows nothing of begin again."""
        arrays = checkpoint.part(_PART)
        for running in self._all:
            stored = checkpoint.numbers.get(_PART, {}).get(running.key)
            if stored is not None:
                prefix = f"{running.key}/"
                own = {name.removeprefix(prefix): each for name, each in arrays.items() if name.startswith(prefix)}
                running.call("restore", {**stored["state"], **own})
                running.hook._reason = stored["reason"]

    def _tell(self, method: str, *arguments: Any) -> None:
        for running in self._all:
            running.call(method, *arguments)


def _make(number: int, section: HookSection) -> _Running:
    extension = section.extension
    settings = settings_of(extension, section.own_settings)
    with extension.calling("__init__"):
        return _Running(f"{number}-{section.use}", extension, extension.cls(settings))


def _check(state: Any) -> None:
    """Raise WrongResult for a state that would not come back as it was."""
    if not isinstance(state, Mapping):
        raise WrongResult(f"{type(state).__name__} instead of values by name")
    for name, value in state.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            continue
        try:
            same = isinstance(name, str) and json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError):
            same = False
        if not same:
            raise WrongResult(f"{one_line(repr(value), 60)} as '{one_line(name, 60)}', which is no JSON value or array")
