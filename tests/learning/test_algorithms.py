"""What each algorithm learns from, and its loss, against the slow computations; and the settings that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rattle.extensions import ExtensionError
from rattle.learning.algorithms import A2C, PPO, Algorithm, AlgorithmSettings, Reinforce
from rattle.learning.algorithms.algorithm import Batch
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.spec import PolicySpec
from rattle.samples.spaces import CodeSpace, FloatSpace
from tests.learning.rollouts import random_rollout
from tests.learning.slow import slow_inputs, slow_loss, slow_samples
from tests.policies.building import network_of, random_parameters

FLOATS = MlpSpec(observation=FloatSpace(size=2), num_actions=3, hidden_sizes=(3,), activation="tanh", value_head=True)
CODES = MlpSpec(
    observation=CodeSpace(cells=2, codes=3), num_actions=2, hidden_sizes=(), activation="relu", value_head=True
)

algorithms = st.builds(
    A2C, discount=st.floats(0, 1), trace_decay=st.floats(0, 1), normalise_advantages=st.booleans()
) | st.builds(Reinforce, discount=st.floats(0, 1), baseline=st.booleans(), normalise_returns=st.booleans())


@settings(max_examples=100)
@given(
    algorithm=algorithms,
    spec=st.sampled_from([FLOATS, CODES]),
    ticks=st.integers(1, 8),
    slots=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    ends=st.sampled_from([0.0, 0.2, 0.7]),
)
def test_samples_are_those_of_the_slow_computation(
    algorithm: A2C | Reinforce, spec: PolicySpec, ticks: int, slots: int, seed: int, ends: float
) -> None:
    rollout = random_rollout(spec, ticks, slots, seed, ends)
    batch, samples = algorithm.prepare(rollout), slow_samples(algorithm, rollout)
    assert len(batch) == len(samples.action)
    assert batch.action.tolist() == samples.action
    assert [row.tolist() for row in batch.observation] == [row.tolist() for row in samples.observation]
    np.testing.assert_allclose(batch.target, samples.target, rtol=1e-4, atol=1e-4)
    plain = algorithm.model_copy(update={"normalise_advantages": False, "normalise_returns": False})
    unscaled = slow_samples(plain, rollout).advantage
    if len(unscaled) == 1 or (unscaled and np.ptp(unscaled) > 1e-3):  # else rounding decides the scale
        np.testing.assert_allclose(batch.advantage, samples.advantage, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("algorithm", [A2C(), Reinforce(baseline=True), Reinforce(baseline=False)])
@pytest.mark.parametrize("spec", [FLOATS, CODES], ids=["floats", "codes"])
def test_losses_are_sums_that_parts_of_a_batch_add_up_to(algorithm: A2C | Reinforce, spec: PolicySpec) -> None:
    rollout = random_rollout(spec, 12, 4, ends=0.3)
    parameters = random_parameters(spec)
    network = network_of(spec, parameters)
    batch, samples = algorithm.prepare(rollout), slow_samples(algorithm, rollout)
    size = len(batch)
    weights = {name: array.astype(np.float64) for name, array in parameters.items()}
    expected = slow_loss(spec, algorithm, weights, samples, slow_inputs(spec, samples.observation))

    def sums(part: Batch) -> torch.Tensor:
        outputs, value = network(part.observation)
        loss = algorithm.loss(spec.action.distribution(outputs), value, part)
        return torch.stack([loss.total, *loss.sums.values()]).detach()

    whole = sums(batch)
    np.testing.assert_allclose(
        whole / size, [expected.total, expected.policy, expected.value, expected.entropy], rtol=1e-4, atol=1e-6
    )
    parts = sums(batch.rows(0, 5)) + sums(batch.rows(5, size))
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


@pytest.mark.parametrize("algorithm", [A2C(), Reinforce(baseline=True)])
def test_one_sample_is_not_normalised(algorithm: A2C | Reinforce) -> None:
    rollout = random_rollout(FLOATS, 1, 1, seed=1, ends=1.0)
    rollout = rollout.replace(active=torch.tensor([[True]]), truncated=torch.tensor([[True]]))
    batch = algorithm.prepare(rollout)
    [expected] = slow_samples(algorithm, rollout).advantage
    assert batch.advantage.tolist() == pytest.approx([expected])


@pytest.mark.parametrize("algorithm", [A2C(trace_decay=0.0), Reinforce(baseline=False)])
def test_equal_samples_are_normalised_to_nothing(algorithm: A2C | Reinforce) -> None:
    rollout = random_rollout(FLOATS, 3, 5, ends=1.0)
    everywhere = torch.ones((3, 5), dtype=torch.bool)
    rollout = rollout.replace(
        reward=torch.full((3, 5), 0.1),
        value=torch.zeros((3, 5)),
        final_value=torch.zeros((3, 5)),
        active=everywhere,
        terminated=everywhere,
        truncated=~everywhere,
    )
    batch = algorithm.prepare(rollout)
    assert len(batch) > 1
    assert not batch.advantage.any()


def test_samples_are_not_copied_when_all_are_learnt_from() -> None:
    rollout = random_rollout(FLOATS, 4, 6)
    rollout = rollout.replace(active=torch.ones((4, 6), dtype=torch.bool))
    assert A2C().prepare(rollout).observation.data_ptr() == rollout.observation.data_ptr()


@pytest.mark.parametrize(
    ("algorithm", "complete_episodes", "needs_value"),
    [
        (A2C(), False, True),
        (PPO(), False, True),
        (Reinforce(baseline=True), True, True),
        (Reinforce(baseline=False), True, False),
    ],
)
def test_what_algorithms_need(algorithm: Algorithm, complete_episodes: bool, needs_value: bool) -> None:
    assert (algorithm.complete_episodes, algorithm.needs_value) == (complete_episodes, needs_value)


SETTINGS: TypeAdapter[A2C | Reinforce] = TypeAdapter(AlgorithmSettings)


def test_settings_are_told_apart_by_their_id() -> None:
    assert SETTINGS.validate_python({"id": "a2c", "ticks": 5}) == A2C(ticks=5)
    assert SETTINGS.validate_python({"id": "reinforce", "baseline": True}) == Reinforce(baseline=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "a3c"},
        {"id": "ppo", "clip": 0},
        {"id": "ppo", "passes": 0},
        {"id": "ppo", "minibatches": 0},
        {"id": "ppo", "max_kl": -1},
        {"id": "ppo", "anneal_updates": 0},
        {"id": "a2c", "baseline": True},
        {"id": "reinforce", "ticks": 5},
        {"id": "a2c", "ticks": 0},
        {"id": "a2c", "trace_decay": 1.01},
        {"id": "a2c", "correction": "retrace"},
        {"id": "a2c", "rho_clip": 0.99},
        {"id": "a2c", "rho_clip": float("inf")},
        {"id": "ppo", "c_clip": 1.01},
        {"id": "ppo", "rho_clip": 2, "c_clip": 2.1},
        {"id": "reinforce", "correction": "vtrace"},
        {"id": "a2c", "discount": 1.01},
        {"id": "a2c", "discount": -0.1},
        {"id": "a2c", "learning_rate": 0},
        {"id": "a2c", "learning_rate": float("inf")},
        {"id": "a2c", "learning_rate": 1e16},
        {"id": "a2c", "max_gradient_norm": 0},
        {"id": "a2c", "max_gradient_norm": float("inf")},
        {"id": "a2c", "max_gradient_norm": 1e16},
        {"id": "a2c", "entropy_weight": float("nan")},
        {"id": "a2c", "value_weight": -1},
        {"id": "reinforce", "max_episode_ticks": 0},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, ExtensionError)):
        SETTINGS.validate_python(wrong)
