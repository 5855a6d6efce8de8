"""The worlds of an experiment, here or in a server, and the spec of its policy; without the packages that learn."""

from __future__ import annotations

import threading
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING

from rattle.envs.errors import EnvError
from rattle.envs.registry import is_harmless, make_groups, make_worlds
from rattle.envs.seeds import derive_seed
from rattle.envs.validation import settings_of
from rattle.envs.vector import EnvironmentSpec, VectorWorlds
from rattle.policies.kinds import KINDS
from rattle.policies.own.inputs import refusal
from rattle.policies.spec import PolicySpec
from rattle.rollouts.remote_env import described_environment, open_remote_worlds
from rattle.samples.spaces import ActionSpace, BoxSpace, CodeSpace, FloatSpace, PartsSpace, SquashedBoxSpace
from rattle.settings.defaults import OBSERVED
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.policy import EncodersSection, PolicySection, UserNetworkSection
from rattle.wire.vector import load_environment
from rattle.workers.apart import ask_apart
from rattle.workers.choice import try_one
from rattle.workers.making import make_in_workers
from rattle.workers.trial import TriedGame, TriedOut, TryOut
from rattle.workers.trial import try_out as try_out_here

if TYPE_CHECKING:
    from rattle.policies.graph.network import LearningNetwork, Spaces


def build_worlds(
    settings: ExperimentSettings,
    worlds: int,
    first_world: int,
    stop: threading.Event | None = None,
    owner: tuple[str, str] | None = None,
    seed: int | None = None,
) -> VectorWorlds:
    """Make some of an experiment's worlds, numbered from `first_world`, here or in its environment server.

    Once `stop` is set a server that is down is no longer waited for. `owner` is a name and its life, for the server.
    With another `seed` they differ from those that the experiment is trained in. Raises SettingsError for worlds that
    several policies play: `build_groups` makes them.
    """
    check_one_policy(settings)
    seed = derive_seed(settings.seed, "worlds") if seed is None else seed
    if settings.env.url is not None:
        return open_remote_worlds(settings.env, worlds, seed, first_world, stop, owner)
    env = settings.env
    return make_worlds(env.id, env.own_settings, worlds, seed, first_world, vector=env.vector)


def check_one_policy(settings: ExperimentSettings) -> None:
    """Raise SettingsError where several policies play the agents of the same worlds: few can make such worlds."""
    if settings.policies:
        raise SettingsError(
            f"policies: the agents of '{settings.env.id}' are played by {', '.join(settings.policy_names)}, which "
            "only `rattle train` and `rattle eval` can do so far, and no service: leave policies out"
        )


def build_groups(settings: ExperimentSettings, worlds: int, first_world: int) -> dict[str, VectorWorlds]:
    """Make some of an experiment's worlds; return the agents of each policy, or all as "main" where one plays them."""
    if not settings.policies:
        return {"main": build_worlds(settings, worlds, first_world)}
    env, seed = settings.env, derive_seed(settings.seed, "worlds")
    return make_groups(env.id, env.own_settings, settings.policies, worlds, seed, first_world)


def try_out(settings: ExperimentSettings, *, plays: bool = True) -> tuple[dict[str, EnvironmentSpec], bool]:
    """Return what an experiment's environment is to the agents of each policy, and whether it repeats itself.

    A few episodes are played for that. Where it does not `play`, one is begun; so it is with Snake in this process,
    whose rules raise nothing and repeat themselves. Where worlds of others live in this process, it is done in
    another: see `ask_apart`. Raises a RattleError for one that cannot be played.
    """
    beside = settings.env.url is None and settings.env.worlds > 1
    if (game := game_of_others(settings)) is not None:
        request = TryOut(game, settings.seed, plays, beside)
        found = ask_apart(
            "rattle.workers.trial",
            request,
            TriedOut,
            environment=settings.env.id,
            answer_seconds=settings.env.answer_seconds,
        )
        if found is not None:
            return {policy: load_environment(text) for policy, text in found.environments.items()}, found.repeats
    plays = plays and (settings.env.id != "snake" or settings.env.url is not None)
    return try_out_here(lambda worlds: build_groups(settings, worlds, 0), settings.seed, plays=plays, beside=beside)


def game_of_others(settings: ExperimentSettings) -> TriedGame | None:
    """Return what an experiment plays in this process, where its environment may do anything to that."""
    env = settings.env
    if env.url is not None or is_harmless(env.id, env.own_settings):
        return None
    return TriedGame(
        env.id, env.own_settings, dict(settings.policies), env.vector, derive_seed(settings.seed, "worlds")
    )


def build_shared_parts(settings: ExperimentSettings) -> list[dict[str, VectorWorlds]]:
    """Make all worlds of an experiment as `build_parts` does; return the agents of each policy, part by part."""
    if not settings.policies:
        return [{"main": worlds} for worlds in build_parts(settings)]
    parts = min(settings.train.actors, settings.env.worlds)
    bounds = [settings.env.worlds * number // parts for number in range(parts + 1)]
    return [build_groups(settings, after - first, first) for first, after in pairwise(bounds)]


def build_parts(settings: ExperimentSettings) -> list[VectorWorlds]:
    """Make all worlds of an experiment in order, split evenly into `train.actors` parts; elsewhere two at least.

    Elsewhere is its environment server, or worker processes where the settings or measured steps ask for these.
    """
    env, train = settings.env, settings.train

    def bounds(least: int) -> list[int]:
        parts = min(max(least, train.actors), env.worlds)
        return [env.worlds * number // parts for number in range(parts + 1)]

    if env.url is None and env.id != "snake":
        made = make_in_workers(
            lambda: try_one(lambda: build_worlds(settings, 1, 0), measures=env.processes == "auto"),
            env.processes,
            derive_seed(settings.seed, "worlds"),
            bounds(2),
            answer_seconds=env.answer_seconds,
            vector=env.vector,
            steps=train.steps,
            play_seconds=train.seconds,
        )
        if made:
            return [*made]
    return [
        build_worlds(settings, after - first, first) for first, after in pairwise(bounds(1 if env.url is None else 2))
    ]


def environment_of(settings: ExperimentSettings) -> EnvironmentSpec:
    """Return what the environment of an experiment is; no world is made where its server says so."""
    served = None if settings.env.url is None else described_environment(settings.env)
    if served is not None:
        return served
    with closing(build_worlds(settings, 1, 0)) as worlds:
        return worlds.spec


def settings_of_policy(settings: ExperimentSettings, policy_id: str) -> ExperimentSettings:
    """Return the settings with which one of several policies is trained: those of "main" are the experiment's own."""
    if policy_id == "main":
        return settings
    return settings.model_copy(update={"seed": derive_seed(settings.seed, "policy", policy_id) >> 1})


def policy_spec(settings: ExperimentSettings, environment: EnvironmentSpec) -> PolicySpec:
    """Return the spec of the policy that an experiment trains.

    Raises ExtensionError for a user's network, SettingsError for one that cannot take what is observed and for bounds
    that are not there, and EnvError for a mask that does not fit the actions.
    """
    _check_mask(environment)
    observation, action = environment.observation_space, _drawn_from(settings, environment)
    value_head = settings.algorithm.needs_value
    if isinstance(settings.policy, PolicySection):
        if not isinstance(observation, CodeSpace | FloatSpace):
            raise SettingsError(
                f"policy.network is {settings.policy.network}, which takes cells and numbers, and '{environment.id}' "
                f"observes {OBSERVED[observation.learnt_by]}: set policy.network=encoders"
            )
        if (said := refusal(settings.policy.inputs, action)) is not None:
            raise SettingsError(f"policy.inputs: {said}: leave it out for '{environment.id}'")
        own = settings.policy.model_dump(exclude={"weights", "bounds"})
        kind = KINDS[settings.policy.network]
        return kind.spec(**own, observation=observation, action=action, value_head=value_head)
    from rattle.policies.graph.network import Spaces, describe

    spaces = Spaces(observation, action)
    return describe(own_network(settings.policy, spaces, settings.seed), spaces, value_head=value_head)


def _drawn_from(settings: ExperimentSettings, environment: EnvironmentSpec) -> ActionSpace:
    """Return the space that the policy draws its actions from; raises SettingsError where nothing can be squashed."""
    space = environment.action_space
    if settings.policy.bounds == "clip":
        return space
    squashed = SquashedBoxSpace.over(space) if isinstance(space, BoxSpace) else None
    if squashed is None or not squashed.half_widths.any():
        raise SettingsError(
            f"policy.bounds is squash, and '{environment.id}' takes {space.values}, none between two bounds: "
            "set policy.bounds=clip"
        )
    return squashed


def _check_mask(environment: EnvironmentSpec) -> None:
    """Raise EnvError where a mask has not just one entry for each action, or each choice of its numbers."""
    observation, action = environment.observation_space, environment.action_space
    mask = observation.mask if isinstance(observation, PartsSpace) else None
    if mask is not None and (not action.choices or mask.space.shape != (sum(action.choices),)):
        raise EnvError(
            f"'{environment.id}' has the mask '{mask.name}' of {mask.space.shape[0]} entries, and its actions are "
            f"{action.values}: a mask has an entry for each of an action's whole numbers"
        )


def own_network(section: EncodersSection | UserNetworkSection, spaces: Spaces, seed: int) -> LearningNetwork:
    """Return a network in PyTorch with the weights that it begins with; raises ExtensionError."""
    from rattle.policies.graph.network import make

    extension = section.extension
    own = settings_of(extension, section.own_settings, UserNetworkSection.model_fields)
    return make(extension, spaces, own, derive_seed(seed, "weights"))
