"""Actions of several whole numbers are learnt: their distribution, and what every algorithm makes of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given
from numpy.typing import NDArray

from rattle.learning.algorithms import A2C, PPO, Algorithm, Reinforce
from rattle.learning.learner import Learner
from rattle.policies.acting import ActingPolicy
from rattle.policies.mlp.spec import MlpSpec
from rattle.samples.rollout import Rollout, allocate, as_tensors
from rattle.samples.spaces import CodeSpace, MultiDiscreteSpace
from tests.policies.building import several_numbers

SPACE = MultiDiscreteSpace(sizes=(3, 2, 4))
SPEC = MlpSpec(
    observation=CodeSpace(cells=1, codes=4), action=SPACE, hidden_sizes=(16,), activation="tanh", value_head=True
)
SLOTS = 256
#: The best numbers, by what is observed.
BEST = np.array([[0, 0, 0], [2, 0, 3], [1, 1, 2], [2, 1, 1]])


def play_one_tick(policy: ActingPolicy, tick: int, version: int) -> Rollout[NDArray[np.float32]]:
    """Return a rollout of episodes that are one tick long, and pay for each right number."""
    rollout = allocate(SPEC.observation, SPACE, 1, SLOTS)
    rollout.observation[0] = seen = SPEC.observation.draw(np.random.default_rng(tick), SLOTS)
    policy.act(seen, tick=tick, action=rollout.action[0], log_prob=rollout.log_prob[0], value=rollout.value[0])
    rollout.reward[0] = (rollout.action[0] == BEST[seen[:, 0]]).mean(axis=1)
    rollout.terminated[:] = rollout.active[:] = True
    rollout.policy_version[:] = version
    return rollout


@given(several_numbers())
def test_the_distribution_is_that_of_independent_discrete_numbers(space: MultiDiscreteSpace) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((5, space.outputs), generator=generator)
    action = torch.from_numpy(space.draw(np.random.default_rng(0), 5))
    found = space.distribution(logits)
    own = [torch.distributions.Categorical(logits=part) for part in torch.split(logits, list(space.sizes), dim=1)]
    log_prob = torch.stack([part.log_prob(action[:, j]) for j, part in enumerate(own)]).sum(dim=0)
    torch.testing.assert_close(found.log_prob(action), log_prob)
    torch.testing.assert_close(found.entropy(), torch.stack([part.entropy().sum() for part in own]).sum())


@pytest.mark.parametrize(
    ("make", "updates"),
    [
        (lambda: PPO(ticks=1, learning_rate=0.01, minibatches=2, entropy_weight=0.0), 40),
        (lambda: A2C(ticks=1, learning_rate=0.02, entropy_weight=0.0), 200),
        (lambda: Reinforce(max_episode_ticks=1, learning_rate=0.02, entropy_weight=0.0), 200),
    ],
    ids=["ppo", "a2c", "reinforce"],
)
def test_every_algorithm_finds_the_best_numbers(make: Callable[[], Algorithm], updates: int) -> None:
    algorithm = make()
    spec = SPEC.model_copy(update={"value_head": algorithm.needs_value})
    with closing(Learner(spec, algorithm, seed=0)) as learner:
        policy = ActingPolicy(spec, learner.parameters(), seed=1)
        for tick in range(updates):
            learner.update(as_tensors(play_one_tick(policy, tick, learner.version)))
            policy.load(learner.parameters())
    action, log_prob, value = SPACE.zeros(4), *np.zeros((2, 4), np.float32)
    seen = np.arange(4, dtype=np.uint8)[:, None]
    policy.act(seen, tick=0, greedy=True, action=action, log_prob=log_prob, value=value)
    np.testing.assert_array_equal(action, BEST)
    assert (log_prob > np.log(0.5)).all()
