"""From an experiment's settings to the worlds, the policy's spec and the learner: the same for every face."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np

from rattle.envs.seeds import derive_seed
from rattle.envs.vector import VectorWorlds
from rattle.learning.learner import Learner
from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.policies.kinds import kind_of
from rattle.policies.spec import PolicySpec
from rattle.rollouts.collector import Collector, WorldBatch, WorldsActor
from rattle.rollouts.worlds import build_shared_parts, build_worlds, own_network
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.policy import PolicySection


def build_collector(settings: ExperimentSettings) -> Collector:
    """Make all worlds of an experiment whose agents one policy plays, and who plays them."""
    (collector,) = build_collectors(settings).values()
    return collector


def build_collectors(settings: ExperimentSettings) -> dict[str, Collector]:
    """Make all worlds of an experiment, in parts, and who plays the agents of each policy in them.

    In this process each part has an actor, a thread. Worlds in a server, or in worker processes, leave threads to
    these: an actor there plays two parts in turn, acting in one while the other is stepped.
    """
    parts = build_shared_parts(settings)
    return {policy: _collector(settings, [part[policy] for part in parts]) for policy in parts[0]}


def _collector(settings: ExperimentSettings, parts: Sequence[VectorWorlds]) -> Collector:
    algorithm = settings.algorithm
    made: list[WorldBatch] = []
    for worlds in parts:
        made.append(WorldBatch(worlds, sum(batch.worlds.num_worlds for batch in made)))
    turns = 1 if made[0].elsewhere is None or settings.policies else 2
    shares = [WorldsActor(made[number : number + turns]) for number in range(0, len(made), turns)]
    return Collector(
        shares,
        algorithm.rollout_ticks,
        complete_episodes=algorithm.complete_episodes,
        max_reward=settings.train.max_reward,
    )


def build_learner(settings: ExperimentSettings, spec: PolicySpec) -> Learner:
    """Make the learner with its first weights."""
    train = settings.train
    network = None
    if not isinstance(settings.policy, PolicySection):
        from rattle.policies.graph.network import Spaces

        network = own_network(settings.policy, Spaces(spec.observation, spec.action), settings.seed)
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        if shapes != kind_of(spec).parameter_shapes(spec):
            raise PolicyError(f"this policy has another network than {settings.policy.network}")
    seed = derive_seed(settings.seed, "weights")
    return Learner(spec, settings.algorithm, seed, train.actors, train.device, network)


def build_acting_policy(settings: ExperimentSettings, learner: Learner) -> ActingPolicy:
    """Make the policy that plays, with the learner's weights."""
    return ActingPolicy(learner.spec, learner.parameters(), derive_seed(settings.seed, "actions"))


def warm_up(settings: ExperimentSettings, policy: ActingPolicy, worlds: VectorWorlds) -> None:
    """Compile, or load, what stepping, acting and the first checkpoint need, so that the clock starts at work.

    `worlds` are some that the policy plays, and stay as they are.
    """
    import pyarrow.parquet  # noqa: F401

    observation = worlds.observation[: worlds.spec.agents_per_world]
    action, log_prob = policy.spec.action.zeros(len(observation)), np.zeros(len(observation), np.float32)
    policy.act(observation, tick=0, action=action, log_prob=log_prob, value=log_prob.copy())
    policy.values(observation)
    if settings.env.url is None and not settings.policies:
        with closing(build_worlds(settings, 1, 0)) as another:
            spec = worlds.spec
            another.step(spec.observation_space.allow(another.observation, action, spec.action_space.choices))
