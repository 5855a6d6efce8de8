"""Learning in units of the running size of returns: rewards of any size teach alike."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from rattle.learning.algorithms import A2C, PPO, Algorithm, Reinforce
from rattle.learning.errors import LearningError
from rattle.learning.learner import Learner
from rattle.learning.value_scale import ValueScale
from rattle.policies.mlp.spec import MlpSpec
from rattle.samples.rollout import scaled as scaled_rollout
from rattle.samples.spaces import FloatSpace
from tests.learning.problems import corridor, train
from tests.learning.rollouts import random_rollout, with_number
from tests.policies.building import random_parameters

SPEC = MlpSpec(observation=FloatSpace(size=2), num_actions=3, hidden_sizes=(4,), activation="tanh", value_head=True)
ALGORITHMS: dict[str, Algorithm] = {
    "a2c": A2C(scale_rewards=True),
    "ppo": PPO(scale_rewards=True, value_clip=0.2),
    "reinforce with a baseline": Reinforce(scale_rewards=True, baseline=True),
}


def bytes_of(learner: Learner) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in learner.state().items()}


@pytest.mark.parametrize("doublings", [20, -20])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_rewards_times_a_power_of_two_give_the_same_policy_to_the_bit(name: str, doublings: int) -> None:
    times = 2.0**doublings
    learners = [Learner(SPEC, ALGORITHMS[name], seed=1) for _ in range(2)]
    with closing(learners[0]) as plain, closing(learners[1]) as scaled:
        for seed in range(5):
            rollout = random_rollout(SPEC, 8, 6, seed)
            assert plain.update(rollout) == scaled.update(scaled_rollout(rollout, times))
        other = scaled.parameters()
        for part, array in plain.parameters().items():
            expected = array * np.float32(times) if part.startswith("value") else array
            np.testing.assert_array_equal(other[part], expected, err_msg=part)


@pytest.mark.parametrize(
    ("name", "times"), [("a2c", 1e-6), ("a2c", 1e6), ("ppo", 1e6), ("reinforce with a baseline", 1e6)]
)
def test_rewards_of_any_size_are_learnt_from(name: str, times: float) -> None:
    problem, discount = corridor(4, left=0.6, right=1.0), 0.9
    known = {"learning_rate": 0.05, "entropy_weight": 0.02, "discount": discount, "max_episode_ticks": 32, "ticks": 4}
    algorithm = ALGORITHMS[name].model_copy(update=known)
    learnt = train(replace(problem, reward=problem.reward * times), algorithm, updates=150, worlds=200)
    assert learnt.probability[:, 1].min() > 0.8
    np.testing.assert_allclose(learnt.value / times, [discount ** (3 - cell) for cell in range(4)], atol=0.05)


def test_without_it_large_rewards_drown_the_policy() -> None:
    problem = corridor(4, left=0.6, right=1.0)
    algorithm = A2C(learning_rate=0.05, entropy_weight=0.02, discount=0.9, ticks=4)
    learnt = train(replace(problem, reward=problem.reward * 1e6), algorithm, updates=150, worlds=200)
    assert learnt.probability[:, 1].min() < 0.8


def test_a_new_scale_changes_no_value_that_is_predicted() -> None:
    first = random_parameters(SPEC)
    with closing(Learner(SPEC, A2C(scale_rewards=True, learning_rate=1e-30), seed=1)) as learner:
        learner.begin_with(first)
        for times in (1e6, 1.0, 1e-3):
            learner.update(scaled_rollout(random_rollout(SPEC, 8, 6), times))
            for name, array in learner.parameters().items():
                np.testing.assert_array_equal(array, first[name], err_msg=name)


def test_a_restored_learner_goes_on_with_the_same_bytes() -> None:
    algorithm = A2C(scale_rewards=True)
    with closing(Learner(SPEC, algorithm, seed=1)) as learner, closing(Learner(SPEC, algorithm, seed=2)) as copy:
        learner.update(scaled_rollout(random_rollout(SPEC, 8, 6, 1), 1e4))
        copy.update(random_rollout(SPEC, 8, 6, 2))
        copy.restore(learner.state())
        for each in (learner, copy):
            each.update(scaled_rollout(random_rollout(SPEC, 8, 6, 3), 1e2))
        assert bytes_of(copy) == bytes_of(learner)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_an_update_that_fails_leaves_the_scale_as_it_was(number: float) -> None:
    with closing(Learner(SPEC, A2C(scale_rewards=True), seed=1)) as learner:
        learner.update(random_rollout(SPEC, 8, 6, 1))
        before = bytes_of(learner)
        for rollout in (
            with_number(random_rollout(SPEC, 8, 6, 2), "reward", number),
            with_number(scaled_rollout(random_rollout(SPEC, 8, 6, 2), 1e4), "observation", np.nan),
        ):
            with pytest.raises(LearningError, match="so the update was not made"):
                learner.update(rollout)
            assert bytes_of(learner) == before


@pytest.mark.parametrize(
    ("square", "factor"), [(0.0, 1.0), (1.0, 1.0), (1.9, 1.0), (2.1, 2.0), (3.9, 2.0), (1e12, 2.0**20), (1e80, 2.0**96)]
)
def test_the_factor_is_the_power_of_two_next_to_the_root_mean_square(square: float, factor: float) -> None:
    assert ValueScale(square, 1.0).factor == factor
    assert ValueScale(square / 4, 0.25).factor == factor


def test_the_scale_follows_the_returns_and_ignores_dead_agents() -> None:
    rollout = random_rollout(SPEC, 8, 6)
    worthless = rollout.replace(reward=torch.where(rollout.active, rollout.reward, 1e9))
    assert ValueScale().after(worthless, 0.9) != ValueScale()
    assert ValueScale().after(worthless, 0.0) == ValueScale().after(rollout, 0.0)
    scale = ValueScale()
    for _ in range(200):
        scale = scale.after(scaled_rollout(rollout, 64.0), 0.9)
    assert scale.factor == pytest.approx(64 * ValueScale().after(rollout, 0.9).factor)
