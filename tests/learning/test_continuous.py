"""Actions of real numbers are learnt: their distribution, and what every algorithm makes of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rattle.learning.algorithms import A2C, PPO, Algorithm, Reinforce
from rattle.learning.learner import Learner
from rattle.policies.acting import ActingPolicy
from rattle.policies.mlp.spec import MlpSpec
from rattle.samples.rollout import Rollout, allocate, as_tensors
from rattle.samples.spaces import BoxSpace, FloatSpace, read_action_space

SPACE = BoxSpace(low=(-3.0, None), high=(3.0, None))
SPEC = MlpSpec(observation=FloatSpace(size=2), action=SPACE, hidden_sizes=(16,), activation="tanh", value_head=True)
SLOTS = 256


def wanted(observation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the best actions (N, 2)."""
    return np.stack([1.5 * observation[:, 0], -observation[:, 1] + 0.5], axis=1)


def play_one_tick(policy: ActingPolicy, tick: int, version: int) -> Rollout[NDArray[np.float32]]:
    """Return a rollout of episodes that are one tick long, and pay for actions near the best ones."""
    rollout = allocate(SPEC.observation, SPACE, 1, SLOTS)
    observation = np.random.default_rng(tick).uniform(-1, 1, (SLOTS, 2)).astype(np.float32)
    rollout.observation[0] = observation
    policy.act(observation, tick=tick, action=rollout.action[0], log_prob=rollout.log_prob[0], value=rollout.value[0])
    rollout.reward[0] = -np.square(rollout.action[0] - wanted(observation)).sum(axis=1)
    rollout.terminated[:] = rollout.active[:] = True
    rollout.policy_version[:] = version
    return rollout


def test_the_distribution_is_that_of_independent_normal_numbers() -> None:
    space = BoxSpace.of(np.full((2, 3), -1.0), np.full((2, 3), 1.0))
    generator = torch.Generator().manual_seed(3)
    mean, log_std = torch.randn((4, 6), generator=generator), torch.randn((4, 6), generator=generator)
    action = torch.randn((4, 2, 3), generator=generator)
    found = space.distribution(torch.cat([mean, log_std], dim=1))
    expected = torch.distributions.Normal(mean, log_std.exp())
    torch.testing.assert_close(found.log_prob(action), expected.log_prob(action.flatten(1)).sum(dim=1))
    torch.testing.assert_close(found.entropy(), expected.entropy().sum())


@pytest.mark.parametrize(
    ("make", "updates"),
    [
        (lambda: PPO(ticks=1, learning_rate=0.01, minibatches=2, entropy_weight=0.0), 40),
        (lambda: A2C(ticks=1, learning_rate=0.02, entropy_weight=0.0), 200),
        (lambda: Reinforce(max_episode_ticks=1, learning_rate=0.02, entropy_weight=0.0), 200),
    ],
    ids=["ppo", "a2c", "reinforce"],
)
def test_every_algorithm_finds_the_best_actions_and_grows_sure_of_them(
    make: Callable[[], Algorithm], updates: int
) -> None:
    algorithm = make()
    spec = SPEC.model_copy(update={"value_head": algorithm.needs_value})
    learner = Learner(spec, algorithm, seed=0)
    with closing(learner):
        policy = ActingPolicy(spec, learner.parameters(), seed=1)
        for tick in range(updates):
            learner.update(as_tensors(play_one_tick(policy, tick, learner.version)))
            policy.load(learner.parameters())
        observation = np.random.default_rng(99).uniform(-1, 1, (500, 2)).astype(np.float32)
        outputs, _ = policy.forward(observation)
    error = np.abs(SPACE.part("mean", outputs) - wanted(observation)).mean()
    assert error < 0.25
    assert (SPACE.part("log_std", outputs) < -0.3).all()


def test_spaces_come_back_from_their_description() -> None:
    assert read_action_space(SPACE.describe()) == SPACE


def test_a_bound_that_float32_cannot_hold_is_none() -> None:
    low, high = BoxSpace(low=(1e39, -1e39), high=(1e39, 1e39)).bounds
    assert low.tolist() == [-np.inf, -np.inf]
    assert high.tolist() == [np.inf, np.inf]
