"""The face of the compiled forward pass: what it takes, refuses, and does in threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.policies.kinds import check_parameters, kind_of
from rattle.policies.mlp import kernel
from rattle.policies.mlp.network import MultilayerPerceptron
from rattle.policies.mlp.program import flatten
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.spec import PolicySpec
from rattle.samples.spaces import BoxSpace, CodeSpace, FloatSpace
from tests.policies.building import Played, play, random_observation, random_parameters

CODES = MlpSpec(
    observation=CodeSpace(cells=60, codes=3), num_actions=3, hidden_sizes=(64, 31), activation="relu", value_head=True
)
FLOATS = MlpSpec(observation=FloatSpace(size=4), num_actions=2, hidden_sizes=(5,), activation="tanh", value_head=False)


def acting(spec: PolicySpec, seed: int = 0) -> ActingPolicy:
    return ActingPolicy(spec, random_parameters(spec, seed))


@pytest.mark.parametrize(
    ("spec", "observation", "message"),
    [
        (CODES, np.zeros((2, 60), np.float32), r"takes observations of uint8 \(rows, 60\), got float32 \(2, 60\)"),
        (CODES, np.zeros((2, 61), np.uint8), r"got uint8 \(2, 61\)"),
        (CODES, np.zeros(60, np.uint8), r"got uint8 \(60,\)"),
        (CODES, np.zeros((2, 60), np.int64), r"got int64"),
        (CODES, np.full((2, 60), 3, np.uint8), "knows cell codes from 0 to 2, got 3: it was made for another env"),
        (FLOATS, np.zeros((2, 4), np.uint8), r"takes observations of float32 \(rows, 4\), got uint8"),
        (FLOATS, np.zeros((2, 4), np.float64), r"got float64"),
        (FLOATS, np.zeros((2, 4), ">f4"), r"got >f4"),
        (FLOATS, np.zeros((1, 2, 4), np.float32), r"got float32 \(1, 2, 4\)"),
    ],
)
def test_foreign_observations_are_refused(spec: PolicySpec, observation: np.ndarray[Any, Any], message: str) -> None:
    policy = acting(spec)
    with pytest.raises(PolicyError, match=message):
        play(policy, observation)
    with pytest.raises(PolicyError, match=message):
        policy.values(observation)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("action", np.zeros(2, np.int64), r"action must be int64 \(3,\) for 3 rows, got int64 \(2,\)"),
        ("action", np.zeros(3, np.int32), r"action must be int64 \(3,\) for 3 rows, got int32"),
        ("log_prob", np.zeros((3, 1), np.float32), r"log_prob must be float32 \(3,\).*got float32 \(3, 1\)"),
        ("value", np.zeros(3, np.float64), r"value must be float32 \(3,\).*got float64"),
    ],
)
def test_outputs_that_do_not_fit_are_refused_and_nothing_is_written(
    name: str, array: np.ndarray[Any, Any], message: str
) -> None:
    played = Played(3)
    untouched = played.bits()
    outputs = {"action": played.action, "log_prob": played.log_prob, "value": played.value}
    with pytest.raises(PolicyError, match=message):
        acting(CODES).act(random_observation(CODES, 3), tick=0, **{**outputs, name: array})
    assert played.bits() == untouched


def test_rows_of_numbers_must_be_written_in_one_piece() -> None:
    spec = FLOATS.model_copy(update={"action": BoxSpace(low=(0.0, 0.0), high=(1.0, 1.0))})
    played, scattered = Played(3, spec.action), np.zeros((3, 4), np.float32)[:, ::2]
    with pytest.raises(PolicyError, match=r"action must be contiguous for actions of shape \(2,\)"):
        acting(spec).act(
            random_observation(spec, 3), tick=0, action=scattered, log_prob=played.log_prob, value=played.value
        )


def test_observations_in_any_array_give_the_same_bits_by_the_same_compiled_code() -> None:
    policy = acting(CODES)
    observation = random_observation(CODES, 12)
    expected = play(policy, observation).bits()
    spread = np.zeros((24, 120), np.uint8)
    spread[::2, ::2] = observation
    compiled = list(kernel.act.signatures)
    assert play(policy, spread[::2, ::2]).bits() == expected
    assert play(policy, np.asfortranarray(observation)).bits() == expected
    observation.flags.writeable = False  # as what comes over a network
    assert play(policy, observation).bits() == expected
    assert kernel.act.signatures == compiled


def test_outputs_may_be_columns_of_a_larger_buffer() -> None:
    policy = acting(CODES)
    observation = random_observation(CODES, 4)
    alone = play(policy, observation)
    action, numbers = np.full((3, 10), -1), np.zeros((3, 2, 10), np.float32)
    policy.act(observation, tick=0, action=action[1, 2:6], log_prob=numbers[1, 0, 2:6], value=numbers[1, 1, 2:6])
    np.testing.assert_array_equal(action[1], [-1, -1, *alone.action, -1, -1, -1, -1])
    np.testing.assert_array_equal(numbers[1, 0, 2:6], alone.log_prob)
    np.testing.assert_array_equal(numbers[1, 1, 2:6], alone.value)


def test_values_are_zero_without_a_value_head() -> None:
    observation = random_observation(FLOATS, 3)
    assert acting(FLOATS).values(observation).tolist() == [0, 0, 0]
    assert play(acting(FLOATS), observation).value.tolist() == [0, 0, 0]


def test_threads_that_share_a_policy_get_what_one_would() -> None:
    policy = acting(CODES)
    observation = random_observation(CODES, 400)
    expected = [play(policy, observation, tick).bits() for tick in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda tick: play(policy, observation, tick).bits(), range(40)))
    assert found == expected


def test_a_call_uses_the_old_weights_or_the_new_ones_but_never_both() -> None:
    policy = acting(CODES, seed=1)
    observation = random_observation(CODES, 400)
    weights = [random_parameters(CODES, seed) for seed in (1, 2)]
    allowed = {play(ActingPolicy(CODES, parameters), observation).bits() for parameters in weights}
    assert len(allowed) == 2
    with ThreadPoolExecutor(2) as pool:
        calls = []
        for number in range(200):
            calls.append(pool.submit(play, policy, observation))
            policy.load(weights[number % 2])
        assert {call.result().bits() for call in calls} == allowed


@pytest.mark.parametrize("other", [CODES, FLOATS], ids=["the same spec", "another"])
def test_a_policy_that_follows_another_leaves_that_as_it_is(other: PolicySpec) -> None:
    before = ActingPolicy(CODES, random_parameters(CODES, 1), 7)
    observation, theirs = random_observation(CODES, 50), random_observation(other, 50)
    bits = play(before, observation).bits()
    after = ActingPolicy.after(before, other, random_parameters(other, 2), 7)
    assert play(after, theirs).bits() == play(ActingPolicy(other, random_parameters(other, 2), 7), theirs).bits()
    assert play(before, observation).bits() == bits
    with pytest.raises(PolicyError, match="parameter"):
        ActingPolicy.after(before, other, {**random_parameters(other, 2), "more": np.zeros(1, np.float32)})


def test_loading_copies_the_weights() -> None:
    parameters = random_parameters(CODES)
    policy = ActingPolicy(CODES, parameters)
    observation = random_observation(CODES, 5)
    before = play(policy, observation).bits()
    for array in parameters.values():
        array += 1
    assert play(policy, observation).bits() == before
    policy.load(parameters)
    assert play(policy, observation).bits() != before


@pytest.mark.parametrize("spec", [CODES, FLOATS], ids=["codes", "floats"])
def test_parameters_are_named_and_shaped_as_the_network_has_them(spec: PolicySpec) -> None:
    network = {name: tuple(tensor.shape) for name, tensor in MultilayerPerceptron(spec).state_dict().items()}
    assert kind_of(spec).parameter_shapes(spec) == network


def test_flat_parameters_are_inputs_by_outputs_then_biases_with_the_heads_side_by_side() -> None:
    spec = MlpSpec(observation=FloatSpace(size=2), num_actions=2, hidden_sizes=(2,), activation="relu", value_head=True)
    numbers = iter(range(100))
    parameters = {
        name: np.array([next(numbers) for _ in range(int(np.prod(shape)))], np.float32).reshape(shape)
        for name, shape in kind_of(spec).parameter_shapes(spec).items()
    }
    # trunk: weight [[0, 1], [2, 3]], bias [4, 5]; policy: [[6, 7], [8, 9]], [10, 11]; value: [[12, 13]], [14].
    assert flatten(spec, parameters).tolist() == [0, 2, 1, 3, 4, 5, 6, 8, 12, 7, 9, 13, 10, 11, 14]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy.bias": None}, r"expected the parameters \['policy.bias', .*\], got \['policy.weight', "),
        ({"extra": np.zeros(1, np.float32)}, r"got \['extra', "),
        ({"policy.bias": np.zeros(3, np.float32)}, r"policy.bias must be float32 \(2,\), got float32 \(3,\)"),
        ({"policy.weight": np.zeros((2, 5))}, r"policy.weight must be float32 \(2, 5\), got float64 \(2, 5\)"),
    ],
)
def test_parameters_that_do_not_fit_the_spec_are_refused(change: dict[str, Any], message: str) -> None:
    parameters = {**random_parameters(FLOATS), **change}
    fitting = {name: array for name, array in parameters.items() if array is not None}
    for use in (check_parameters, ActingPolicy):
        with pytest.raises(PolicyError, match=message):
            use(FLOATS, fitting)
