"""The runs of a service: found in their directories, or begun there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rattle.analytics.run_directory import RunDirectory
from rattle.envs.vector import EnvironmentSpec
from rattle.rollouts.complete import complete
from rattle.rollouts.worlds import environment_of, settings_of_policy
from rattle.runs.errors import RunError
from rattle.runs.find_policy import policy_run_directory
from rattle.runs.new_runs import check_beginning, make_folder, name_run, store_beginning
from rattle.runs.stored_run import read_environment, read_or_mend_row, read_settings, read_stored_run
from rattle.services.training.learning_loop import LearningLoop
from rattle.services.training.policy_run import PolicyRun
from rattle.services.training.rollout_batcher import RolloutBatcher
from rattle.services.training.rollout_messages import Contribution
from rattle.settings.experiment import ExperimentSettings


@dataclass(frozen=True)
class RunPlace:
    """Where a policy's run is stored, and what it is called."""

    policy_id: str
    directory: RunDirectory
    run_id: str
    is_first: bool = False  # of the experiment: its directory keeps the experiment's settings, others their policy's


def waits_for_actors(settings: ExperimentSettings, run_dir: Path | None) -> bool:
    """Whether only those who play can say what the environment is: no world is made here for that.

    Raises a RattleError for what keeps the run from beginning all the same.
    """
    begun = _begun(run_dir)
    if settings.env.url is not None or settings.env.id == "snake" or settings.evaluation.every_steps is not None:
        return False  # its server, or this process, which plays it in evaluations, knows it
    if begun is None:
        check_beginning(settings, RunDirectory(run_dir) if run_dir is not None else None)
    return begun is None or not begun.environment.exists()


def open_loops(
    settings: ExperimentSettings,
    run_dir: Path | None,
    lineage: str,
    stack: ExitStack,
    environment: EnvironmentSpec | None = None,
    run_id: str | None = None,
) -> dict[str, LearningLoop]:
    """Return what learns each policy, where its newest checkpoint was taken or from the beginning.

    `stack` keeps other processes from the run directories until it is closed. A run directory says what its environment
    is; else it is the `environment` that actors have said that they play, or follows from the settings. A run that
    begins has the `run_id`, where one is given. Raises RattleError.
    """
    begun = _begun(run_dir)
    if begun is None:
        settings = complete(settings, environment=environment)
        directory, run_id, played = name_run(settings, run_dir, environment, run_id)
        environment = played["main"]
        first = settings.training.policies[0]
    else:
        stored, environment = read_settings(begun, plays=False), read_environment(begun) or environment
        settings = complete(settings, stored, environment=environment)
        directory, run_id = begun, str(read_or_mend_row(begun, plays=False)["run_id"])
        environment = environment or environment_of(settings)
        first = stored.training.policies[0]  # this service may train some of the others only
    loops = {}
    for place in _places(settings, first, directory, run_id):
        make_folder(place.directory)
        stack.enter_context(place.directory.locked())
        loop = _open(settings, place, environment, lineage)
        loops[place.policy_id] = loop
    return loops


def _begun(run_dir: Path | None) -> RunDirectory | None:
    """Return the directory of a run that has begun already, if it is to continue."""
    directory = None if run_dir is None else RunDirectory(run_dir)
    return directory if directory is not None and directory.is_run else None


def _places(settings: ExperimentSettings, first: str, directory: RunDirectory, run_id: str) -> Iterator[RunPlace]:
    """Yield where the policies go: the `first` of the whole experiment into the run directory, others next to it."""
    for policy_id in settings.training.policies:
        if policy_id == first:
            yield RunPlace(policy_id, directory, run_id, is_first=True)
        else:
            yield RunPlace(policy_id, policy_run_directory(directory, policy_id), f"{run_id}-{policy_id}")


def _open(experiment: ExperimentSettings, place: RunPlace, environment: EnvironmentSpec, lineage: str) -> LearningLoop:
    directory, settings = place.directory, settings_of_policy(experiment, place.policy_id)
    kept = experiment if place.is_first else settings
    checkpoint = None
    if directory.is_run:
        stored = read_stored_run(directory, plays=False)
        _check_same(stored.settings, kept, directory)
        checkpoint = stored.checkpoint
    else:
        store_beginning(directory, place.run_id, kept, environment)
    run = PolicyRun(settings, directory, place.run_id, environment)
    own = settings.training
    intake: RolloutBatcher[Contribution] = RolloutBatcher(
        run.form.worlds,
        lineage,
        in_order=own.mode == "on_policy",
        max_policy_age=own.max_policy_age,
        max_waiting=own.max_waiting,
    )
    if checkpoint is None:
        run.start(intake.state())
    else:
        run.restore(checkpoint, intake)
    return LearningLoop(place.policy_id, run, intake)


def _check_same(stored: ExperimentSettings, given: ExperimentSettings, directory: RunDirectory) -> None:
    """Raise RunError when a run would continue as another experiment than it has begun as."""
    before, now = _what_decides(stored), _what_decides(given)
    different = [name for name, value in before.items() if now[name] != value]
    if different:
        raise RunError(
            f"{directory.path} holds a run with another {', '.join(different)}: choose another --run-dir, or continue "
            f"with the settings in {directory.config}"
        )


def _what_decides(settings: ExperimentSettings) -> Mapping[str, Any]:
    """Return the settings that make an experiment another one, by name."""
    env = settings.env
    slots = settings.inference.snakes if settings.inference.api == "agent" else env.worlds
    return {
        "seed": settings.seed,
        "env": (env.id, env.own_settings),
        "number of worlds": (settings.inference.api, slots),
        "policy": settings.policy,
        "algorithm": settings.algorithm,
    }
