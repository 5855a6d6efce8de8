"""The worlds of an experiment, here or in a server, and the spec of its policy; without the packages that learn."""

from __future__ import annotations

import threading

from rattle.envs.philox import derive_seed
from rattle.envs.registry import make_worlds
from rattle.envs.vector import EnvironmentSpec, VectorWorlds
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.spec import PolicySpec
from rattle.rollouts.remote_env import open_remote_worlds
from rattle.settings.experiment import ExperimentSettings


def build_worlds(
    settings: ExperimentSettings,
    worlds: int,
    first_world: int,
    stop: threading.Event | None = None,
    owner: tuple[str, str] | None = None,
    seed: int | None = None,
) -> VectorWorlds:
    """Make some of an experiment's worlds, numbered from `first_world`, here or in its environment server.

    Once `stop` is set a server that is away is no longer waited for. `owner` is a name and its life, for the server.
    With another `seed` they are none of those that the experiment is trained in.
    """
    seed = derive_seed(settings.seed, "worlds") if seed is None else seed
    if settings.env.url is not None:
        return open_remote_worlds(settings.env, worlds, seed, first_world, stop, owner)
    return make_worlds(settings.env.id, settings.env.own_settings, worlds, seed, first_world)


def settings_of_policy(settings: ExperimentSettings, policy_id: str) -> ExperimentSettings:
    """Return the settings with which one of several policies is trained: those of "main" are the experiment's own."""
    if policy_id == "main":
        return settings
    return settings.model_copy(update={"seed": derive_seed(settings.seed, "policy", policy_id) >> 1})


def policy_spec(settings: ExperimentSettings, environment: EnvironmentSpec) -> PolicySpec:
    """Return the spec of the policy that an experiment trains."""
    return MlpSpec(
        observation=environment.observation_space,
        action=environment.action_space,
        hidden_sizes=settings.policy.hidden_sizes,
        activation=settings.policy.activation,
        value_head=settings.algorithm.needs_value,
    )
