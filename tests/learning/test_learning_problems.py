"""All algorithms learn tiny problems whose optimum is known, through the collector that trains.

Every test is seeded, so that it passes or fails alike every time; the bounds leave room for other roundings.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rattle.envs.vector import VectorWorlds
from rattle.learning.algorithms import A2C, PPO, Algorithm, Reinforce
from tests.learning.problems import ProblemWorlds, bandit, contextual_bandit, corridor, countdown, ring, train

ALGORITHMS = {
    "a2c": A2C(ticks=4, learning_rate=0.05, entropy_weight=0.02),
    "ppo": PPO(ticks=4, learning_rate=0.02, entropy_weight=0.02, passes=2, minibatches=2),
    "reinforce": Reinforce(baseline=False, max_episode_ticks=32, learning_rate=0.05, entropy_weight=0.02),
    "reinforce with a baseline": Reinforce(
        baseline=True, max_episode_ticks=32, learning_rate=0.05, entropy_weight=0.02
    ),
}


def algorithm_for(name: str, **changes: float | bool) -> Algorithm:
    return ALGORITHMS[name].model_copy(update=changes)


def assert_values(algorithm: Algorithm, found: NDArray[np.float64], expected: object, within: float) -> None:
    """Check the value head, where the algorithm has one."""
    if algorithm.needs_value:
        np.testing.assert_allclose(found, np.asarray(expected), atol=within)


def test_problems_are_worlds_and_know_their_optimum() -> None:
    problem = corridor(4, left=0.6, right=1.0)
    assert isinstance(ProblemWorlds(problem, 3), VectorWorlds)
    assert problem.best_actions(0.9).tolist() == [1, 1, 1, 1]
    assert problem.best_actions(0.3).tolist() == [0, 0, 1, 1]
    always_right = np.tile([0.0, 1.0], (4, 1))
    np.testing.assert_allclose(problem.values(always_right, 0.9), [0.9**3, 0.9**2, 0.9, 1])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_best_arm_of_a_bandit_is_found(name: str) -> None:
    problem, algorithm = bandit(0.2, 0.6, 1.0, 0.0), algorithm_for(name, max_episode_ticks=1)
    learnt = train(problem, algorithm, updates=60)
    assert learnt.probability[0, 2] > 0.95
    assert_values(algorithm, learnt.value, [learnt.mean_payoff(problem)], within=0.05)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_contextual_bandit_is_told_apart_by_its_codes(name: str) -> None:
    """The best of three actions is the larger of the two codes that are seen."""
    codes = np.array([(a, b) for a in range(3) for b in range(3)], np.uint8)
    problem = contextual_bandit((codes.max(axis=1, keepdims=True) == np.arange(3)).astype(np.float64), codes)
    algorithm = algorithm_for(name, learning_rate=0.01, entropy_weight=0.05, max_episode_ticks=1)
    learnt = train(problem, algorithm, updates=120, worlds=90, hidden=(32,))
    np.testing.assert_array_equal(learnt.probability.argmax(axis=1), codes.max(axis=1))
    assert learnt.mean_payoff(problem) > 0.9


@pytest.mark.parametrize("discount", [0.9, 0.3])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_discount_decides_between_a_near_and_a_far_reward(name: str, discount: float) -> None:
    """The left end pays 0.6, the right end 1: who is far-sighted goes right from everywhere, else from near it."""
    problem, algorithm = corridor(4, left=0.6, right=1.0), algorithm_for(name, discount=discount)
    learnt = train(problem, algorithm, updates=150, worlds=200)
    best = problem.best_actions(discount)
    assert learnt.probability[np.arange(4), best].min() > 0.8
    optimum = [max(0.6 * discount**cell, discount ** (3 - cell)) for cell in range(4)]
    assert_values(algorithm, learnt.value, optimum, within=0.05)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_entropy_bonus_leads_to_the_softmax_of_the_payoffs(name: str) -> None:
    """The policy p that maximises payoff plus w * entropy is proportional to exp(payoff / w)."""
    payoffs, weight = np.array([0.2, 1.0, 0.6]), 0.5
    plain = {"normalise_advantages": False, "normalise_returns": False}
    algorithm = algorithm_for(name, learning_rate=0.01, entropy_weight=weight, max_episode_ticks=1, ticks=1, **plain)
    learnt = train(bandit(*payoffs), algorithm, updates=200, worlds=256)
    optimum = np.exp(payoffs / weight) / np.exp(payoffs / weight).sum()
    np.testing.assert_allclose(learnt.probability[0], optimum, atol=0.05)


#: Learns values alone: the problems below leave nothing to choose.
CRITIC = A2C(ticks=8, learning_rate=0.05, discount=0.9, value_weight=1.0)


def test_a_truncated_episode_is_worth_what_would_have_come() -> None:
    """Reward 1 a tick for ever is worth 1 / (1 - 0.9), though every episode is cut after 5 ticks."""
    learnt = train(ring(np.ones(1), limit=5), CRITIC, updates=300, worlds=4)
    np.testing.assert_allclose(learnt.value, [10], atol=0.05)


def test_a_truncated_episode_is_worth_what_its_own_last_observation_promises() -> None:
    """In a ring of 4 states of which the first pays, an episode of 5 ticks is cut in state 1; the next starts in 0."""
    learnt = train(ring(np.array([1.0, 0, 0, 0]), limit=5), CRITIC, updates=300, worlds=4)
    np.testing.assert_allclose(learnt.value, 0.9 ** np.array([0, 3, 2, 1]) / (1 - 0.9**4), atol=0.05)


def test_a_terminated_episode_is_worth_what_is_left_of_it() -> None:
    learnt = train(countdown(5), CRITIC, updates=300, worlds=4)
    np.testing.assert_allclose(learnt.value, (1 - 0.9 ** np.arange(5, 0, -1)) / (1 - 0.9), atol=0.05)


@pytest.mark.parametrize("truncated", [True, False])
def test_reinforce_takes_a_cut_episode_for_a_finished_one(truncated: bool) -> None:
    problem = ring(np.ones(5), limit=5) if truncated else countdown(5)
    algorithm = Reinforce(baseline=True, max_episode_ticks=8, learning_rate=0.05, discount=0.9, value_weight=1.0)
    learnt = train(problem, algorithm, updates=300, worlds=4)
    np.testing.assert_allclose(learnt.value, (1 - 0.9 ** np.arange(5, 0, -1)) / (1 - 0.9), atol=0.05)
