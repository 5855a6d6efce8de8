"""Learning with observations shifted and scaled: policies take them as they are, whatever their size."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from rattle.learning.algorithms import A2C, PPO, Algorithm
from rattle.learning.errors import LearningError
from rattle.learning.input_scale import InputScale
from rattle.learning.learner import Learner
from rattle.policies.acting import ActingPolicy
from rattle.policies.mlp.spec import MlpSpec
from rattle.samples.spaces import CodeSpace, DiscreteSpace, FloatSpace
from tests.learning.problems import corridor, train
from tests.learning.rollouts import random_rollout, with_number
from tests.policies.building import network_outputs, random_parameters

SPEC = MlpSpec(
    observation=FloatSpace(size=2), action=DiscreteSpace(n=3), hidden_sizes=(4,), activation="tanh", value_head=True
)
SHALLOW = SPEC.model_copy(update={"hidden_sizes": ()})
SCALED = A2C(scale_observations=True, scale_rewards=True)
#: What the inputs of another rollout are: x * size + shift.
SIZE, SHIFT = torch.tensor([1e6, 1e-6]), torch.tensor([-3e6, 5.0])


def bytes_of(learner: Learner) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in learner.state().items()}


@pytest.mark.parametrize("spec", [SPEC, SHALLOW, SPEC.model_copy(update={"value_head": False})])
def test_what_learns_and_what_acts_compute_the_same(spec: MlpSpec) -> None:
    with closing(Learner(spec, SCALED, seed=1)) as learner:
        for seed in range(4):
            rollout = random_rollout(spec, 8, 6, seed)
            learner.update(rollout.replace(observation=rollout.observation * SIZE))
        observation = (rollout.observation * SIZE).flatten(0, 1)
        outputs, value = ActingPolicy(spec, learner.parameters()).forward(observation.numpy())
        inputs = learner._units._inputs.apply(observation)
        found, predicted = learner._network(inputs)
        assert np.abs(outputs).max() > 1e-3
        np.testing.assert_allclose(outputs, found.detach(), atol=1e-4)
        np.testing.assert_allclose(value, predicted.detach() * learner._units._values.factor, atol=1e-4)


@pytest.mark.parametrize("algorithm", [SCALED, PPO(scale_observations=True, scale_rewards=True)])
@pytest.mark.parametrize("spec", [SPEC, SHALLOW])
def test_shifted_and_scaled_observations_teach_the_same(spec: MlpSpec, algorithm: Algorithm) -> None:
    with closing(Learner(spec, algorithm, 1)) as plain, closing(Learner(spec, algorithm, 1)) as other:
        for seed in range(5):
            rollout = random_rollout(spec, 8, 6, seed)
            changed = rollout.replace(observation=rollout.observation * SIZE[0] + SHIFT[0])
            first, second = plain.update(rollout), other.update(changed)
            assert second.values == pytest.approx(first.values, rel=1e-3, abs=1e-5)
        # The dead observe zeros, which are others once they are shifted: only the living are compared.
        rows, moved = (each.observation[rollout.active].numpy() for each in (rollout, changed))
        for ours, theirs in zip(
            ActingPolicy(spec, plain.parameters()).forward(rows),
            ActingPolicy(spec, other.parameters()).forward(moved),
            strict=True,
        ):
            np.testing.assert_allclose(theirs, ours, atol=1e-3)


@pytest.mark.parametrize("times", [1e5, 1e-5])
def test_observations_of_any_size_are_learnt_from(times: float) -> None:
    problem, discount = corridor(4, left=0.6, right=1.0), 0.9
    seen = np.array([[0, 1], [1, 1], [2, 1], [3, 1]], np.float32) * np.float32(times)
    algorithm = PPO(ticks=4, learning_rate=0.02, discount=discount, scale_observations=True, scale_rewards=True)
    learnt = train(replace(problem, observation=seen), algorithm, updates=60, worlds=200, hidden=(16,))
    assert learnt.probability[:, 1].min() > 0.8


def test_new_moments_change_no_policy_that_others_gave() -> None:
    first = random_parameters(SPEC)
    algorithm = A2C(scale_observations=True, scale_rewards=True, learning_rate=1e-30)
    with closing(Learner(SPEC, algorithm, seed=1)) as learner:
        learner.begin_with(first)
        for seed, times in enumerate((1.0, 30.0, 0.1)):
            rollout = random_rollout(SPEC, 8, 6, seed)
            learner.update(rollout.replace(observation=rollout.observation * times + 2.0))
            rows = rollout.observation.flatten(0, 1).numpy()
            before = network_outputs(SPEC, first, rows)
            for ours, theirs in zip(network_outputs(SPEC, learner.parameters(), rows), before, strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_first_policy_chooses_evenly_whatever_it_observes() -> None:
    with closing(Learner(SPEC, SCALED, seed=1)) as learner:
        outputs, value = ActingPolicy(SPEC, learner.parameters()).forward(np.array([[1e9, -1e9]], np.float32))
        assert not outputs.any()
        assert not value.any()


def test_a_restored_learner_goes_on_with_the_same_bytes() -> None:
    with closing(Learner(SPEC, SCALED, seed=1)) as learner, closing(Learner(SPEC, SCALED, seed=2)) as copy:
        for updates in range(3):
            copy.restore(learner.state())
            for each in (learner, copy):
                each.update(random_rollout(SPEC, 8, 6, updates).replace())
            assert bytes_of(copy) == bytes_of(learner)


def test_an_update_that_fails_leaves_everything_as_it_was() -> None:
    with closing(Learner(SPEC, SCALED, seed=1)) as learner:
        learner.update(random_rollout(SPEC, 8, 6, 1))
        before = bytes_of(learner)
        good = random_rollout(SPEC, 8, 6, 2)
        for rollout in (
            with_number(good, "observation", np.nan),
            with_number(good.replace(observation=good.observation * 1e3), "reward", np.nan),
        ):
            with pytest.raises(LearningError, match="so the update was not made"):
                learner.update(rollout)
            assert bytes_of(learner) == before


def test_codes_are_left_alone() -> None:
    spec = SPEC.model_copy(update={"observation": CodeSpace(cells=2, codes=3)})
    with closing(Learner(spec, A2C(scale_observations=True), 1)) as asked, closing(Learner(spec, A2C(), 1)) as plain:
        for learner in (asked, plain):
            learner.update(random_rollout(spec, 8, 6))
        assert bytes_of(asked) == bytes_of(plain)


def test_moments_follow_what_living_agents_observe() -> None:
    rollout = random_rollout(SPEC, 64, 6)
    seen = rollout.observation[rollout.active].double().numpy()
    scale = InputScale.of_nothing(2)
    for _ in range(3):
        scale = scale.after(rollout)
        np.testing.assert_allclose(scale.shift, seen.mean(axis=0))
        np.testing.assert_allclose(scale.size, seen.std(axis=0))
    again = InputScale.of(scale.state(), 2)
    assert again.state().keys() == scale.state().keys()
    np.testing.assert_array_equal(again.size, scale.size)


def test_an_input_that_hardly_ever_changes_is_not_blown_up() -> None:
    rollout = random_rollout(SPEC, 64, 6, ends=0.0)
    seen = torch.full_like(rollout.observation, 7.0)
    seen[..., 1] = 0.0
    scale = InputScale.of_nothing(2).after(rollout.replace(observation=seen))
    assert scale.size.tolist() == pytest.approx([7e-5, 1.0])
    seen[3, 2, 1] = 1.0
    rare = rollout.replace(observation=seen)
    for _ in range(3):
        scale = scale.after(rare)
    assert scale.apply(seen)[rollout.active].abs().max() <= 10.1
