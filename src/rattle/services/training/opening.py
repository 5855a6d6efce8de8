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
from rattle.runs.new_runs import make_folder, name_run, policy_run_directory, store_beginning
from rattle.runs.stored_run import read_or_mend_row, read_settings, read_stored_run
from rattle.services.training.learning_loop import LearningLoop
from rattle.services.training.policy_run import PolicyRun
from rattle.services.training.rollout_batcher import RolloutBatcher
from rattle.services.training.rollout_messages import Contribution
from rattle.settings.experiment import ExperimentSettings


@dataclass(frozen=True)
class Place:
    """Where a policy's run is stored, and what it is called."""

    policy_id: str
    directory: RunDirectory
    run_id: str
    is_first: bool = False  # of the experiment: its directory keeps the experiment's settings, others their policy's


def open_loops(
    settings: ExperimentSettings, run_dir: Path | None, lineage: str, stack: ExitStack
) -> dict[str, LearningLoop]:
    """Return what learns each policy, where its newest checkpoint was taken or from the beginning.

    `stack` keeps other processes from the run directories until it is closed. Raises RattleError.
    """
    begun = None if run_dir is None else RunDirectory(run_dir)
    settings = complete(settings, read_settings(begun) if begun is not None and begun.is_run else None)
    environment = environment_of(settings)
    loops = {}
    for place in _places(settings, run_dir):
        make_folder(place.directory)
        stack.enter_context(place.directory.locked())
        loop = _open(settings, place, environment, lineage)
        loops[place.policy_id] = loop
    return loops


def _places(settings: ExperimentSettings, run_dir: Path | None) -> Iterator[Place]:
    """Yield where the policies go: the first of the whole experiment's into the run directory, others beside it."""
    first = settings.training.policies[0]
    if run_dir is not None and RunDirectory(run_dir).is_run:
        directory = RunDirectory(run_dir)
        run_id = str(read_or_mend_row(directory)["run_id"])
        first = read_settings(directory).training.policies[0]  # this service may train some of the others only
    else:
        directory, run_id = name_run(settings, run_dir)
    for policy_id in settings.training.policies:
        if policy_id == first:
            yield Place(policy_id, directory, run_id, is_first=True)
        else:
            yield Place(policy_id, policy_run_directory(directory, policy_id), f"{run_id}-{policy_id}")


def _open(experiment: ExperimentSettings, place: Place, environment: EnvironmentSpec, lineage: str) -> LearningLoop:
    directory, settings = place.directory, settings_of_policy(experiment, place.policy_id)
    kept = experiment if place.is_first else settings
    checkpoint = None
    if directory.is_run:
        stored = read_stored_run(directory)
        _check_same(stored.settings, kept, directory)
        checkpoint = stored.checkpoint
    else:
        store_beginning(directory, place.run_id, kept)
    run = PolicyRun(settings, directory, place.run_id, environment)
    own = settings.training
    intake: RolloutBatcher[Contribution] = RolloutBatcher(
        run.form.worlds,
        lineage,
        in_order=own.mode == "sync",
        max_policy_age=own.max_policy_age,
        max_waiting=own.max_waiting,
    )
    if checkpoint is None:
        run.start(intake.state())
    else:
        run.restore(checkpoint, intake)
    return LearningLoop(place.policy_id, run, intake)


def _check_same(stored: ExperimentSettings, given: ExperimentSettings, directory: RunDirectory) -> None:
    """Raise RunError when a run would go on as another experiment than it has begun as."""
    before, now = _what_decides(stored), _what_decides(given)
    different = [name for name, value in before.items() if now[name] != value]
    if different:
        raise RunError(
            f"{directory.path} holds a run with another {', '.join(different)}: choose another --run-dir, or go on "
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
