"""The beginning of a run: its name, its directory and what is stored before anything is learnt."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from rattle.analytics.run_directory import RUNS_ROOT, RunDirectory
from rattle.analytics.writer import storing, write_together
from rattle.envs.errors import EnvError, WorldsLost
from rattle.envs.seeds import derive_seed
from rattle.envs.vector import EnvironmentSpec, VectorWorlds
from rattle.events import emit, of_runs
from rattle.rollouts.worlds import build_groups, policy_spec
from rattle.runs.errors import RunError
from rattle.runs.find_policy import policy_run_directory
from rattle.runs.first_policy import first_policy_file, read_first_policy
from rattle.runs.hooks import Hooks
from rattle.runs.origin import origin
from rattle.runs.progress import Summary
from rattle.runs.run_tables import dump_run_row, now, run_row
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import to_yaml
from rattle.text import one_line, with_article
from rattle.wire.vector import dump_environment

#: Ticks that an environment is played before its run begins, so that its mistakes leave no run behind.
_TICKS_TRIED = 32
#: A slow one plays fewer of them in these seconds.
_TRIED_SECONDS = 5.0
#: A quick one plays more, to see whether it repeats itself: so many episodes, ticks or seconds, whichever come first.
_EPISODES, _MOST_TICKS, _MOST_SECONDS = 10, 1024, 0.2

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


def try_out(settings: ExperimentSettings) -> tuple[dict[str, EnvironmentSpec], bool]:
    """Play the first episodes of a world, twice, and once beside another; raises RattleError where it cannot be played.

    Returns what it is to the agents of each policy, "main" where one plays all, and whether it repeats itself: a resume
    cannot play the episodes of one that does not again to where they were.
    """
    with ExitStack() as stack:
        groups = build_groups(settings, 1, 0)
        worlds = [stack.enter_context(closing(group)) for group in groups.values()]
        first = _first_ticks(worlds, settings.seed)
        repeats = _repeats(worlds, settings.seed, first)
    alone = settings.env.url is None and all(group.spec.batch is None for group in worlds)
    if repeats and alone and settings.env.worlds > 1:
        with ExitStack() as stack:  # a generator that worlds share shows where they take turns
            two = [stack.enter_context(closing(group)) for group in build_groups(settings, 2, 0).values()]
            repeats = _repeats(two, settings.seed, first)
    return {policy: group.spec for policy, group in groups.items()}, repeats


def _first_ticks(worlds: Sequence[VectorWorlds], seed: int) -> list[bytes]:
    """Return what happens in each of the first ticks: of a few episodes, as far as they take no time.

    Raises RattleError for what goes wrong at once. What goes wrong later is left to the run, which keeps its traceback.
    """
    began, ticks = time.monotonic(), list[bytes]()
    try:
        for happened in _ticks(worlds, seed):
            if len(ticks) <= _TICKS_TRIED:
                for group in worlds:
                    _check_finite(group, f"in tick {len(ticks) - 1}" if ticks else "at the start")
            ticks.append(happened)
            seconds = time.monotonic() - began
            more = len(ticks) < _MOST_TICKS and worlds[0].episode[0] < _EPISODES and seconds < _MOST_SECONDS
            if not more and (len(ticks) > _TICKS_TRIED or seconds >= _TRIED_SECONDS):
                break
    except WorldsLost:  # by a server that was started again just now
        pass
    except EnvError:
        if len(ticks) <= _TICKS_TRIED:
            raise
    return ticks


def _repeats(worlds: Sequence[VectorWorlds], seed: int, first: Sequence[bytes]) -> bool:
    """Whether the first world's ticks are the `first` ones once more; so they are where it cannot be played again."""
    try:
        for group in worlds:
            group.reset(derive_seed(seed, "worlds"))
        return all(before == now for before, now in zip(first, _ticks(worlds, seed), strict=False))
    except EnvError:
        return True


def _ticks(worlds: Sequence[VectorWorlds], seed: int) -> Iterator[bytes]:
    """Play on, with actions that depend on the seed alone, and yield a hash of what happens to the first world.

    `worlds` are the agents of each policy in the same worlds.
    """
    random = np.random.default_rng(seed)
    while True:
        seen = [
            array[: group.spec.agents_per_world].tobytes()
            for group in worlds
            for array in (group.observation, group.reward, group.terminated, group.truncated)
        ]
        yield hashlib.blake2b(b"".join(seen), digest_size=16).digest()
        for group in worlds:
            space = group.spec.action_space
            actions = np.concatenate([space.draw(random, group.spec.agents_per_world)] * group.num_worlds)
            group.step(group.spec.observation_space.allow(group.observation, actions, space.choices))


def _check_finite(worlds: VectorWorlds, when: str) -> None:
    """Raise EnvError for a reward or an observation that is not finite; they would end the run later."""
    for what, array in (("reward", worlds.reward), ("observation", worlds.observation)):
        for agent, row in enumerate(array):
            if not np.isfinite(row).all():
                whose = f" of agent {agent}" if worlds.spec.agents_per_world > 1 else ""
                raise EnvError(
                    f"'{worlds.spec.id}' hands out {with_article(what)}{whose} that is not finite, or too large "
                    f"for float32, {when} of its first episodes: {one_line(row, 80)}"
                )


@dataclass(frozen=True)
class RunPart:
    """The run of one policy, of those that play the agents of the same worlds together."""

    policy: str
    settings: ExperimentSettings
    directory: RunDirectory
    run_id: str


def parts_of(settings: ExperimentSettings, directory: RunDirectory, run_id: str) -> list[RunPart]:
    """Return the runs of all policies: the first has the directory and settings, others their own beside it.

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
