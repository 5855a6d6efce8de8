"""Starting and resuming runs: what `rattle train` does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import find_run
from rattle.errors import RattleError
from rattle.runs.checkpoint import Checkpoint
from rattle.runs.find_policy import find_together
from rattle.runs.new_runs import RunPart, make_folder, name_run, parts_of, store_beginning
from rattle.runs.progress import Display, Summary
from rattle.runs.run_clock import RunLimits
from rattle.runs.stored_run import accept_code, read_settings, read_together
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import keep_security, with_named_files
from rattle.stop_signals import stop_signals
from rattle.telemetry.system import watching_system
from rattle.trainer.build import build_collectors
from rattle.trainer.loop import TrainingRun, restore_together, train_together


def train(settings: ExperimentSettings, run_dir: Path | None, display: Display) -> Summary:
    """Start a run in `run_dir`, or in a new directory below runs/, and train it until a limit or a signal.

    `settings` hold what follows from the environment: see `complete`.
    """
    directory, run_id, environments = name_run(settings, run_dir)
    parts = parts_of(settings, directory, run_id)
    with ExitStack() as stack:
        for part in parts:
            make_folder(part.directory)
            stack.enter_context(part.directory.locked())
        for part, environment in zip(reversed(parts), reversed(environments.values()), strict=True):
            store_beginning(part.directory, part.run_id, part.settings, environment)
        limits = RunLimits(settings.train.steps, settings.train.seconds)
        return _train(parts, limits, display, [None for _ in parts])


def resume(
    name: str, steps: int | None, seconds: float | None, display: Display, *, allow_changed_code: bool = False
) -> Summary:
    """Continue from the newest checkpoint that fits a run's tables; `steps` and `seconds` replace the run's own limits.

    A run of one of several policies continues with those of the others.
    """
    directory = find_run(name)
    with ExitStack() as stack:
        stack.enter_context(directory.locked())
        if allow_changed_code:
            accept_code(directory)
        directories = find_together(directory, read_settings(directory).policy_names)
        for other in directories:
            if other.path.resolve() != directory.path.resolve():
                stack.enter_context(other.locked())
                if allow_changed_code:
                    accept_code(other)
        stored = read_together(directories)
        settings = stored[0].settings
        keep_security(with_named_files(settings, os.environ), os.environ)
        limits = RunLimits(steps or settings.train.steps, seconds or settings.train.seconds)
        named = parts_of(settings, directories[0], stored[0].run_id)
        parts = [
            RunPart(part.policy, run.settings, part.directory, run.run_id)
            for part, run in zip(named, stored, strict=True)
        ]
        return _train(parts, limits, display, [run.checkpoint for run in stored])


def _train(
    parts: Sequence[RunPart], limits: RunLimits, display: Display, checkpoints: Sequence[Checkpoint | None]
) -> Summary:
    """Train the policies that play the agents of the same worlds, or the only one; return the result of the first."""
    first = parts[0]
    collectors = build_collectors(first.settings)
    runs = [
        TrainingRun(part.settings, part.directory, part.run_id, collector)
        for part, collector in zip(parts, collectors.values(), strict=True)
    ]
    end_publishing = first.settings.telemetry.publish_logs(first.directory.outbox)
    summary: Summary | None = None
    try:
        if stored := [checkpoint for checkpoint in checkpoints if checkpoint is not None]:
            restore_together(runs, stored)
        else:
            for run in runs:
                run.start()
    except RattleError:
        for run in runs:
            with suppress(AnalyticsError):
                run.close()
        end_publishing()
        raise
    try:
        display.start(first.run_id, str(first.directory.path), runs[0].learner.version if stored else None)
        with _stop_on_signals() as stop, watching_system(first.settings.log.system_seconds, first.directory.path):
            summary, *others = train_together(runs, limits, display, stop.is_set)
        for other in reversed(others):
            display.finish(other)
        return summary
    except Exception as error:
        for run in runs:
            with suppress(AnalyticsError):  # a full disk does not take this either, and must not hide the error
                run.fail(error)
        raise
    finally:
        display.finish(summary)
        try:
            with nullcontext() if summary else suppress(AnalyticsError):
                for run in runs:
                    run.close()
        finally:
            end_publishing()


class _Stop:
    """Remembers that the user has asked to stop."""

    def __init__(self) -> None:
        self._asked = False

    def is_set(self) -> bool:
        """Whether a signal has come."""
        return self._asked

    def ask(self, number: int, _frame: object) -> None:
        """Take a signal: the first asks, the second ends the process as if nobody had caught it."""
        if self._asked:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._asked = True


@contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    """Turn what asks for an end into a wish to stop after the update in progress."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():  # no other may catch signals
        yield stop
        return
    before = {number: signal.signal(number, stop.ask) for number in stop_signals()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
