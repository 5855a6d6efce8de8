"""Running an experiment several times, and saying whether the runs were the same: `rattle verify-determinism`."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.updates import read_updates
from rattle.analytics.writer import storing
from rattle.errors import RattleError
from rattle.launch.compare import read_history
from rattle.launch.errors import LaunchError
from rattle.launch.launched_run import RunOutcome
from rattle.launch.up import launch
from rattle.launch.verify_report import Outcome, PolicyOutcome, VerifyReport
from rattle.launch.verify_view import Reporter
from rattle.runs.find_policy import policy_run_directory
from rattle.runs.run_tables import read_run_row
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import load_settings

#: What is run where no experiment is named: four snakes in one world, each learning from its own lives.
LOCKSTEP_SNAKES = {
    "name": "snake-lockstep",
    "sync": "lockstep",
    "env": {"id": "snake", "num_snakes": 4, "food": 4, "width": 15, "height": 15, "vision_radius": 5},
    "inference": {"snakes": 4},
    "topology": {"inference": 4},
    "policy": {"hidden_sizes": [64, 64]},
    "algorithm": {"id": "a2c", "learning_rate": 0.003},
    "train": {"steps": None},
}
#: A run in which no tick has come for so long, and for so many of the longest delays, has failed.
_PATIENCE_SECONDS, _PATIENCE_DELAYS = 180.0, 60.0


@dataclass(frozen=True)
class Trial:
    """How an experiment is run again and again."""

    runs: int
    ticks: int
    loss: float  # the fraction of datagrams that is lost
    delay_seconds: float  # datagrams and work are held up by up to this
    inference: tuple[int, ...] = ()  # Inference processes of run 1, 2, … in turn; empty: as the experiment says

    def overrides(self, number: int) -> list[str]:
        """Return what run `number`, from 1, changes of an experiment."""
        changes = {
            "sync.mode": "lockstep",
            "sync.participants": "[]",
            "sync.frequency": "null",
            "sync.ticks": self.ticks,
            "sync.loss": self.loss,
            "sync.delay_seconds": self.delay_seconds,
            "train.steps": "null",
            "train.seconds": "null",
            "topology.ports": "any",
        }
        if self.inference:
            changes["topology.inference"] = self.inference[(number - 1) % len(self.inference)]
        return [f"{key}={value}" for key, value in changes.items()]


def verify(
    experiment: Path | None,
    overrides: Sequence[str],
    environ: Mapping[str, str],
    trial: Trial,
    keep: Path | None,
    reporter: Reporter,
) -> int:
    """Run an experiment several times, have the reporter say the result, and return the exit status.

    That is 0 when all runs agree, 1 when they do not, and 128 and a signal's number after that signal. The runs are
    kept in `keep`; without it they are kept only where they do not agree. Raises RattleError when they cannot be
    compared.
    """
    played = load_settings(experiment, overrides, environ, {**LOCKSTEP_SNAKES, "sync": "none"}).env.id
    if played != "snake":
        raise LaunchError(
            f"only snake can be played in lockstep, and env.id is '{played}': to check that environment, train twice "
            "with the same seed and compare the lines 'policy sha256'"
        )
    settings = [
        load_settings(experiment, [*overrides, *trial.overrides(number)], environ, LOCKSTEP_SNAKES)
        for number in range(1, trial.runs + 1)
    ]
    try:
        with _folder(keep) as folder:
            result = _run_all(settings, trial, folder, reporter)
            if keep is None and (isinstance(result, signal.Signals) or result.agree):
                shutil.rmtree(folder)
    except KeyboardInterrupt:  # between two runs: within one it is a signal as any other
        result = signal.SIGINT
    if isinstance(result, signal.Signals):
        reporter.stopped(result)
        return 128 + result
    reporter.conclude(result, folder if folder.exists() else None)
    return 0 if result.agree else 1


def _run_all(
    settings: Sequence[ExperimentSettings], trial: Trial, folder: Path, reporter: Reporter
) -> VerifyReport | signal.Signals:
    """Return the result of all runs, or the signal that has stopped one of them."""
    outcomes: list[Outcome] = []
    patience = _PATIENCE_SECONDS + _PATIENCE_DELAYS * trial.delay_seconds
    for number, own in enumerate(settings, 1):
        directory = RunDirectory(folder / f"run-{number}")
        view = reporter.begin(number, trial.runs, trial.ticks)
        ended = launch(own, directory.path, view, patience=patience)
        if ended.stopped_by is not None:
            return ended.stopped_by
        outcomes.append(_outcome(own, directory, ended))
        reporter.ended(outcomes[-1])
    return VerifyReport(outcomes)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Give the block a folder for runs; what an error leaves there is kept and named, if there is anything."""
    if keep is not None:
        yield keep
        return
    with storing(Path(tempfile.gettempdir())):
        folder = Path(tempfile.mkdtemp(prefix="rattle-verify-"))
    try:
        yield folder
    except RattleError as error:
        if any(folder.iterdir()):
            raise LaunchError(f"{error} (the runs are kept in {folder})") from None
        folder.rmdir()
        raise
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)  # some of it may be gone already
        raise


def _outcome(settings: ExperimentSettings, directory: RunDirectory, ended: RunOutcome) -> Outcome:
    """Return what a run has left behind; raises LaunchError where that is not the whole of it."""
    if ended.sync is None or not directory.history.is_file():
        raise LaunchError(f"{directory.path} has ended without a history")
    history = read_history(directory.history.read_bytes(), str(directory.history))
    if not history.newest():
        raise LaunchError(
            f"{directory.history} holds no hashes: the members reported none, so the runs cannot be compared"
        )
    if history.ticks != settings.sync.ticks:
        raise LaunchError(f"{directory.path} has ended after {history.ticks} of {settings.sync.ticks} ticks")
    first, *others = settings.training.policies
    directories = {first: directory, **{policy_id: policy_run_directory(directory, policy_id) for policy_id in others}}
    return Outcome(
        inference=settings.topology.inference,
        loss=settings.sync.loss,
        delay_seconds=settings.sync.delay_seconds,
        worlds=tuple(f"env-{number}" for number in range(settings.topology.env)),
        history=history,
        policies={policy_id: _policy(where) for policy_id, where in directories.items()},
        seconds=ended.tick_seconds,
        datagrams=ended.sync.datagrams,
        disagreements=ended.sync.disagreements,
        restarts=ended.restarts,
    )


def _policy(directory: RunDirectory) -> PolicyOutcome:
    row = read_run_row(directory)
    return PolicyOutcome(str(row["policy_sha256"]), row["updates"], read_updates(directory))
