"""The beginning of a run: its name, its directory and what is stored before anything is learnt."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rattle.analytics.run_directory import RUNS_ROOT, RunDirectory
from rattle.analytics.writer import storing, write_together
from rattle.envs.seeds import derive_seed
from rattle.envs.vector import EnvironmentSpec
from rattle.events import emit, of_runs
from rattle.rollouts.worlds import policy_spec, try_out
from rattle.runs.errors import RunError
from rattle.runs.find_policy import policy_run_directory
from rattle.runs.first_policy import first_policy_file, read_first_policy
from rattle.runs.hooks import Hooks
from rattle.runs.origin import origin
from rattle.runs.progress import Summary
from rattle.runs.run_tables import dump_run_row, now, run_row
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import to_yaml
from rattle.text import one_line
from rattle.wire.vector import dump_environment

#: What a run_id may be that is not made here.
_RUN_ID = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}"


def name_run(
    settings: ExperimentSettings,
    run_dir: Path | None,
    environment: EnvironmentSpec | None = None,
    run_id: str | None = None,
) -> tuple[RunDirectory, str, dict[str, EnvironmentSpec]]:
    """Return the directory, `run_dir` or a new one below runs/, the run_id and the environment of a new run.

    The environment is that of each policy's agents: "main" where one policy plays all.

    The run_id is a new one, unless who starts the services has chosen it, so that all of them know it. Its worlds are
    tried out, unless others play them and have said what their `environment` is. Raises RattleError where a run is
    there already, or for an experiment that cannot be played: what cannot be had leaves no run behind.
    """
    if run_id and not re.fullmatch(_RUN_ID, run_id):
        raise RunError(f"RUN_ID is {one_line(run_id, 100)!r}, which is no run_id: 1 to 80 letters, digits and ._-")
    new = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{settings.experiment}-s{settings.seed}-{secrets.token_hex(2)}"
    run_id = run_id or new
    directory = RunDirectory(run_dir or RUNS_ROOT / run_id)
    check_beginning(settings, directory)
    for part in parts_of(settings, directory, run_id)[1:]:
        check_beginning(part.settings, part.directory)
    environments, repeats = ({"main": environment}, True) if environment is not None else try_out(settings)
    if not repeats:
        emit(of_runs.NotRepeating(environment=settings.env.id))
    for played in environments.values():
        spec = policy_spec(settings, played)
        if settings.policy.weights is not None:
            read_first_policy(Path(settings.policy.weights), spec)
    return directory, run_id, environments


def check_beginning(settings: ExperimentSettings, directory: RunDirectory | None) -> None:
    """Raise a RattleError for what keeps a run from beginning in a directory, as far as no world shows it."""
    if directory is not None:
        check_unused(directory)
    settings.telemetry.find_broker()
    Hooks(settings.all_hooks).state()


def check_unused(directory: RunDirectory) -> None:
    """Raise RunError where a run is, or what is left of one: a new run overwrites and continues nothing."""
    if directory.is_run:
        raise RunError(
            f"{directory.path} holds a run already: resume it with --resume {directory.path}, or choose another"
        )
    remains = directory.remains()
    if remains:
        raise RunError(
            f"{directory.path} holds {', '.join(remains)}, but no {directory.config.name}: restore that file to resume "
            "the run that they belong to, move them away, or choose another directory"
        )


@dataclass(frozen=True)
class RunPart:
    """The run of one policy, of those that play the agents of the same worlds together."""

    policy: str
    settings: ExperimentSettings
    directory: RunDirectory
    run_id: str


def parts_of(settings: ExperimentSettings, directory: RunDirectory, run_id: str) -> list[RunPart]:
    """Return the runs of all policies: the first has the directory and settings, others their own next to it.

    What others draw is theirs alone. Where one policy plays all agents, it is "main".
    """
    first, *others = settings.policy_names or ("main",)
    return [
        RunPart(first, settings, directory, run_id),
        *(
            RunPart(
                policy,
                settings.model_copy(update={"seed": derive_seed(settings.seed, "agents of policy", policy) >> 1}),
                policy_run_directory(directory, policy),
                f"{run_id}-{policy}",
            )
            for policy in others
        ),
    ]


def make_folder(directory: RunDirectory) -> None:
    """Make the folder of a run, so that it can be locked."""
    with storing(directory.path):
        directory.path.mkdir(parents=True, exist_ok=True)


def store_beginning(
    directory: RunDirectory, run_id: str, settings: ExperimentSettings, environment: EnvironmentSpec
) -> None:
    """Store the settings of a run, its environment and its first row of `runs`; the caller holds the directory's lock.

    Raises RunError where there is anything that the run would overwrite.
    """
    check_unused(directory)
    nothing = Summary.of_nothing_yet(run_id, str(directory.path))
    row = dump_run_row(run_row(settings, nothing, now(), origin()))
    first = first_policy_file(settings)
    policies = {} if first is None else {directory.first_policy: first}
    described, config = dump_environment(environment).encode(), to_yaml(settings).encode()
    write_together({**policies, directory.environment: described, directory.run: row, directory.config: config})
