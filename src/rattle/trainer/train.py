"""Starting and resuming runs: what `rattle train` does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory, find_run
from rattle.errors import RattleError
from rattle.runs.checkpoint import Checkpoint
from rattle.runs.new_runs import make_folder, name_run, store_beginning
from rattle.runs.progress import Display, Summary
from rattle.runs.run_clock import RunLimits
from rattle.runs.stored_run import accept_code, read_stored_run
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import keep_security, with_named_files
from rattle.stop_signals import stop_signals
from rattle.telemetry.system import watching_system
from rattle.trainer.loop import TrainingRun


def train(settings: ExperimentSettings, run_dir: Path | None, display: Display) -> Summary:
    """Start a run in `run_dir`, or in a new directory below runs/, and train it until a limit or a signal.

    `settings` hold what follows from the environment: see `complete`.
    """
    directory, run_id, environment = name_run(settings, run_dir)
    make_folder(directory)
    with directory.locked():
        store_beginning(directory, run_id, settings, environment)
        limits = RunLimits(settings.train.steps, settings.train.seconds)
        return _train(settings, directory, run_id, limits, display, None)


def resume(
    name: str, steps: int | None, seconds: float | None, display: Display, *, allow_changed_code: bool = False
) -> Summary:
    """Go on from the newest checkpoint that fits a run's tables; `steps` and `seconds` replace the run's own limits."""
    directory = find_run(name)
    with directory.locked():
        if allow_changed_code:
            accept_code(directory)
        run = read_stored_run(directory)
        settings = run.settings
        keep_security(with_named_files(settings, os.environ), os.environ)
        limits = RunLimits(steps or settings.train.steps, seconds or settings.train.seconds)
        return _train(settings, directory, run.run_id, limits, display, run.checkpoint)


def _train(
    settings: ExperimentSettings,
    directory: RunDirectory,
    run_id: str,
    limits: RunLimits,
    display: Display,
    checkpoint: Checkpoint | None,
) -> Summary:
    run = TrainingRun(settings, directory, run_id)
    end_publishing = settings.telemetry.publish_logs(directory.outbox)
    summary: Summary | None = None
    try:
        if checkpoint is None:
            run.start()
        else:
            run.restore(checkpoint)
    except RattleError:
        with suppress(AnalyticsError):
            run.close()
        end_publishing()
        raise
    try:
        display.start(run_id, str(directory.path), run.learner.version if checkpoint else None)
        with _stop_on_signals() as stop, watching_system(settings.log.system_seconds, directory.path):
            summary = run.train(limits, display, stop.is_set)
        return summary
    except Exception as error:
        with suppress(AnalyticsError):  # a full disk does not take this either, and must not hide the error
            run.fail(error)
        raise
    finally:
        display.finish(summary)
        try:
            with nullcontext() if summary else suppress(AnalyticsError):
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
