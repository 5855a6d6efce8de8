"""The compiled forward pass says what the PyTorch network says, row by row, and draws as it promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rattle.envs.philox import philox_words
from rattle.envs.seeds import split_seed
from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.policies.mlp.kernel import tanh_of
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.sampling import Groups, draw
from rattle.policies.spec import PolicySpec
from rattle.samples.spaces import BoxSpace, CodeSpace, DiscreteSpace, FloatSpace, MultiDiscreteSpace
from tests.policies.building import (
    BOXES,
    network_log_prob,
    network_of,
    network_outputs,
    play,
    policy_specs,
    random_observation,
    random_parameters,
    several_numbers,
)

#: What is about logits.
DISCRETE = st.builds(DiscreteSpace, n=st.integers(1, 6))


def biased_policy(logits: list[float], seed: int = 0) -> ActingPolicy:
    """Return a policy that has these logits whatever it sees: a single 0."""
    spec = MlpSpec(
        observation=FloatSpace(size=1), num_actions=len(logits), hidden_sizes=(), activation="relu", value_head=False
    )
    parameters = {"policy.weight": np.zeros((len(logits), 1), np.float32), "policy.bias": np.array(logits, np.float32)}
    return ActingPolicy(spec, parameters, seed)


def draws(policy: ActingPolicy, ticks: int, slots: int) -> NDArray[np.int64]:
    """Return the actions (ticks, slots) that the policy draws."""
    observation = np.zeros((slots, 1), np.float32)
    return np.stack([play(policy, observation, tick).action for tick in range(ticks)])


@settings(max_examples=150)
@given(spec=policy_specs(DISCRETE), rows=st.integers(0, 9), seed=st.integers(0, 2**32), greedy=st.booleans())
def test_the_kernel_computes_what_the_network_computes(spec: PolicySpec, rows: int, seed: int, greedy: bool) -> None:
    parameters, observation = random_parameters(spec, seed), random_observation(spec, rows, seed)
    policy = ActingPolicy(spec, parameters, seed)
    log_probs, value = network_outputs(spec, parameters, observation)
    played = play(policy, observation, greedy=greedy)

    assert spec.action.find_wrong(played.action) is None
    chosen = log_probs[np.arange(rows), played.action]
    np.testing.assert_allclose(played.log_prob, chosen, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(played.value, value, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(policy.values(observation), played.value)
    if greedy:
        assert (chosen >= log_probs.max(axis=1, initial=-np.inf) - 1e-4).all()


@settings(max_examples=60)
@given(spec=policy_specs(st.sampled_from(BOXES)), rows=st.integers(0, 9), seed=st.integers(0, 2**32))
def test_actions_of_real_numbers_have_the_density_that_the_network_says(spec: PolicySpec, rows: int, seed: int) -> None:
    parameters, observation = random_parameters(spec, seed), random_observation(spec, rows, seed)
    policy = ActingPolicy(spec, parameters, seed)
    outputs, value = policy.forward(observation)
    with torch.no_grad():
        expected, expected_value = network_of(spec, parameters)(torch.from_numpy(observation))
    np.testing.assert_allclose(outputs, expected.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value, expected_value.numpy(), rtol=1e-4, atol=1e-5)
    for greedy in (False, True):
        played = play(policy, observation, greedy=greedy)
        log_prob = network_log_prob(spec, parameters, observation, played.action)
        np.testing.assert_allclose(played.log_prob, log_prob, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(played.value, value)
    np.testing.assert_array_equal(
        played.action.reshape(rows, spec.action.outputs // 2), spec.action.part("mean", outputs)
    )


@pytest.mark.parametrize("width", range(1, 26))
def test_every_width_is_summed_up_whole(width: int) -> None:
    """The kernel takes inputs eight at a time; what is left over must be neither lost nor read past."""
    spec = MlpSpec(
        observation=FloatSpace(size=width),
        num_actions=2,
        hidden_sizes=(width, width),
        activation="tanh",
        value_head=True,
    )
    parameters, observation = random_parameters(spec), random_observation(spec, 5)
    np.testing.assert_allclose(
        ActingPolicy(spec, parameters).values(observation),
        network_outputs(spec, parameters, observation)[1],
        rtol=1e-4,
        atol=1e-5,
    )


@settings(max_examples=100)
@given(
    spec=policy_specs(DISCRETE),
    seed=st.integers(0, 2**64 - 1),
    tick=st.integers(0, 2**63 - 1),
    slot=st.integers(0, 2**63 - 9),
)
def test_draws_invert_the_cumulative_distribution(spec: PolicySpec, seed: int, tick: int, slot: int) -> None:
    parameters, observation = random_parameters(spec, seed), random_observation(spec, 8, seed)
    log_probs, _ = network_outputs(spec, parameters, observation)
    played = play(ActingPolicy(spec, parameters, seed), observation, tick, slot)
    for row in range(8):
        here = slot + row
        counter = (tick & 0xFFFFFFFF, tick >> 32, here & 0xFFFFFFFF, here >> 32)
        uniform = (philox_words(counter, split_seed(seed))[0] >> 8) / 2**24
        cumulative = np.cumsum(np.exp(log_probs[row].astype(np.float64)))
        if np.abs(cumulative - uniform).min() > 1e-5:
            assert played.action[row] == np.searchsorted(cumulative, uniform, side="right")


@settings(max_examples=100)
@given(
    spec=policy_specs(several_numbers()),
    seed=st.integers(0, 2**64 - 1),
    tick=st.integers(0, 2**63 - 1),
    slot=st.integers(0, 2**63 - 9),
)
def test_each_of_several_whole_numbers_is_drawn_by_bits_of_its_own(
    spec: PolicySpec, seed: int, tick: int, slot: int
) -> None:
    parameters, observation = random_parameters(spec, seed), random_observation(spec, 8, seed)
    policy = ActingPolicy(spec, parameters, seed)
    logits, _ = policy.forward(observation)
    drawn, greedy = play(policy, observation, tick, slot), play(policy, observation, tick, slot, greedy=True)
    for played in (drawn, greedy):
        assert spec.action.find_wrong(played.action) is None
        log_prob = network_log_prob(spec, parameters, observation, played.action)
        np.testing.assert_allclose(played.log_prob, log_prob, rtol=1e-4, atol=1e-4)
    low, high = split_seed(seed)
    ends = np.cumsum(spec.action.choices)
    for j, own in enumerate(np.split(logits.astype(np.float64), ends[:-1], axis=1)):
        np.testing.assert_array_equal(greedy.action[:, j], own.argmax(axis=1))
        cumulative = np.cumsum(np.exp(own - own.max(axis=1, keepdims=True)), axis=1)
        cumulative /= cumulative[:, -1:]
        for row in range(8):
            here = slot + row
            counter = (tick & 0xFFFFFFFF, tick >> 32, here & 0xFFFFFFFF, here >> 32)
            word = philox_words(counter, (low, (high + j // 4) & 0xFFFFFFFF))[j % 4]
            uniform = (word >> 8) / 2**24
            if np.abs(cumulative[row] - uniform).min() > 1e-5:
                assert drawn.action[row, j] == np.searchsorted(cumulative[row], uniform, side="right")


@settings(max_examples=50)
@given(spec=policy_specs(DISCRETE), seed=st.integers(0, 2**64 - 1), greedy=st.booleans())
def test_one_whole_number_among_several_is_what_a_discrete_action_is(spec: MlpSpec, seed: int, greedy: bool) -> None:
    several = spec.model_copy(update={"action": MultiDiscreteSpace(sizes=spec.action.choices)})
    parameters, observation = random_parameters(spec, seed), random_observation(spec, 8, seed)
    one = play(ActingPolicy(spec, parameters, seed), observation, 3, 5, greedy=greedy)
    same = play(ActingPolicy(several, parameters, seed), observation, 3, 5, greedy=greedy)
    assert same.bits() == one.bits()


def chi_square(counts: NDArray[np.int64], probability: NDArray[np.float64]) -> float:
    expected = counts.sum() * probability
    return float(((counts - expected) ** 2 / expected).sum())


def test_draws_follow_the_distribution_and_not_one_another() -> None:
    probability = np.array([0.4, 0.05, 0.25, 0.1, 0.2])
    actions = draws(biased_policy(np.log(probability).tolist()), ticks=200, slots=1000)
    # The bounds are passed once in 100,000 seeds; the seed is fixed.
    assert chi_square(np.bincount(actions.ravel(), minlength=5), probability) < 29
    pairs = np.outer(probability, probability).ravel()
    for first, second in ((actions[:-1], actions[1:]), (actions[:, :-1], actions[:, 1:])):
        assert chi_square(np.bincount((5 * first + second).ravel(), minlength=25), pairs) < 67


def test_draws_of_several_whole_numbers_follow_their_distributions_and_not_one_another() -> None:
    space = MultiDiscreteSpace(sizes=(3, 2, 4, 2, 3))
    spec = MlpSpec(observation=FloatSpace(size=1), action=space, hidden_sizes=(), activation="relu", value_head=False)
    logits = np.random.default_rng(5).normal(size=space.outputs).astype(np.float32)
    policy = ActingPolicy(spec, {"policy.weight": np.zeros((space.outputs, 1), np.float32), "policy.bias": logits}, 3)
    drawn = np.concatenate([play(policy, np.zeros((2000, 1), np.float32), tick).action for tick in range(20)])
    probabilities = [np.exp(own) / np.exp(own).sum() for own in np.split(logits, np.cumsum(space.sizes)[:-1])]
    joint = np.ravel_multi_index(tuple(drawn.T), space.sizes)
    expected = probabilities[0]
    for own in probabilities[1:]:
        expected = np.outer(expected, own).ravel()
    # 143 degrees of freedom: the bound is passed once in 100,000 seeds; the seed is fixed.
    assert chi_square(np.bincount(joint, minlength=144), expected.astype(np.float64)) < 222


def test_draws_of_real_numbers_are_normal_and_independent() -> None:
    space = BoxSpace.of(np.full(6, -np.inf), np.full(6, np.inf))
    spec = MlpSpec(observation=FloatSpace(size=1), action=space, hidden_sizes=(), activation="relu", value_head=False)
    log_std = np.array([0.5, 0.0, -1.0, 0.2, 1.0, -0.3], np.float32)
    mean = np.array([1, -2, 3, 0, 5, -6], np.float32)
    parameters = {"policy.weight": np.zeros((6, 1), np.float32), "policy.bias": mean, "policy.log_std": log_std}
    policy, observation = ActingPolicy(spec, parameters, seed=3), np.zeros((2000, 1), np.float32)
    drawn = np.concatenate([play(policy, observation, tick).action for tick in range(20)])
    standard = (drawn.astype(np.float64) - mean) / np.exp(log_std.astype(np.float64))
    # Deviations of five standard errors are passed once in millions of seeds; the seed is fixed.
    number = len(standard)
    np.testing.assert_allclose(standard.mean(axis=0), 0, atol=5 / number**0.5)
    np.testing.assert_allclose((standard**2).mean(axis=0), 1, atol=5 * 2**0.5 / number**0.5)
    np.testing.assert_allclose((standard**3).mean(axis=0), 0, atol=5 * 15**0.5 / number**0.5)
    np.testing.assert_allclose((standard**4).mean(axis=0), 3, atol=5 * 96**0.5 / number**0.5)
    between = standard.T @ standard / number - np.diag((standard**2).mean(axis=0))
    np.testing.assert_allclose(between, 0, atol=5 / number**0.5)
    in_turn = (standard[1:] * standard[:-1]).mean(axis=0)
    np.testing.assert_allclose(in_turn, 0, atol=5 / number**0.5)


def test_golden_draws() -> None:
    """A uniform policy draws by integer arithmetic and thirds alone: the same on every machine."""
    actions = draws(biased_policy([0, 0, 0], seed=12345), ticks=2, slots=16)
    assert actions.tolist() == [
        [2, 1, 2, 2, 0, 2, 0, 2, 0, 0, 2, 2, 1, 2, 2, 0],
        [0, 1, 0, 0, 0, 2, 2, 1, 1, 2, 1, 1, 2, 1, 0, 2],
    ]


def test_draws_depend_on_seed_and_tick_beyond_32_bits() -> None:
    observation = np.zeros((64, 1), np.float32)
    seen = {
        play(biased_policy([0, 0, 0], seed), observation, tick, slot).action.tobytes()
        for seed, tick, slot in [
            (0, 0, 0),
            (1, 0, 0),
            (2**32, 0, 0),
            (0, 1, 0),
            (0, 2**32, 0),
            (0, 0, 64),
            (0, 0, 2**32),
        ]
    }
    assert len(seen) == 7


#: The draw of seed 0 at tick 0 for this slot is the largest of all, 1 - 2**-24.
LARGEST_DRAW_SLOT = 1205178


@settings(max_examples=300)
@given(logits=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=8))
def test_an_action_of_probability_zero_is_never_drawn(logits: list[float]) -> None:
    assert philox_words((0, 0, LARGEST_DRAW_SLOT, 0), split_seed(0))[0] >> 8 == 2**24 - 1
    policy = biased_policy([*logits, -1000.0, -1000.0])
    assert play(policy, np.zeros((1, 1), np.float32), 0, LARGEST_DRAW_SLOT).action[0] == len(logits) - 1


def test_the_first_of_equally_good_actions_is_the_greedy_one() -> None:
    assert (
        play(biased_policy([0.5, 2.0, 2.0, 1.0]), np.zeros((3, 1), np.float32), greedy=True).action.tolist() == [1] * 3
    )


@pytest.mark.parametrize("logits", [[1e30, 0.0], [3e38, 3e38], [-3e38, -3e38, 0.0], [88.0, -104.0]])
def test_large_logits_give_finite_numbers(logits: list[float]) -> None:
    played = play(biased_policy(logits), np.zeros((50, 1), np.float32))
    assert np.isfinite(played.log_prob).all()
    assert (played.log_prob <= 0).all()


INVARIANT = [
    MlpSpec(
        observation=CodeSpace(cells=11, codes=4),
        num_actions=3,
        hidden_sizes=(19, 8),
        activation="relu",
        value_head=True,
    ),
    MlpSpec(observation=FloatSpace(size=13), num_actions=5, hidden_sizes=(33,), activation="tanh", value_head=True),
    MlpSpec(observation=FloatSpace(size=13), action=BOXES[4], hidden_sizes=(33,), activation="tanh", value_head=True),
    MlpSpec(
        observation=FloatSpace(size=13),
        action=MultiDiscreteSpace(sizes=(3, 2, 4, 4, 1, 5)),
        hidden_sizes=(33,),
        activation="tanh",
        value_head=True,
    ),
]


@pytest.mark.parametrize("spec", INVARIANT, ids=["codes", "floats", "box", "several"])
def test_a_row_gives_the_same_bits_in_any_batch(spec: PolicySpec) -> None:
    policy = ActingPolicy(spec, random_parameters(spec), seed=5)
    observation = random_observation(spec, 70)
    whole = play(policy, observation, tick=9, first_slot=100)
    values = policy.values(observation)
    for start, stop in [(0, 1), (3, 4), (69, 70), (1, 70), (17, 50)]:
        rows = slice(start, stop)
        assert play(policy, observation[rows], 9, 100 + start).bits() == whole.bits(rows)
        assert policy.values(observation[rows]).tobytes() == values[rows].tobytes()
    backwards = play(policy, np.ascontiguousarray(observation[::-1]), 9, 100, greedy=True)
    np.testing.assert_array_equal(backwards.value[::-1], whole.value)


@settings(max_examples=100)
@given(
    spec=policy_specs(),
    groups=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**64 - 1), st.booleans()), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
)
def test_groups_in_a_batch_get_the_bits_that_they_get_alone(
    spec: PolicySpec, groups: list[tuple[int, int, bool]], seed: int
) -> None:
    parameters = random_parameters(spec, seed)
    rows = np.array([count for count, _, _ in groups])
    seeds = np.array([group_seed for _, group_seed, _ in groups], np.uint64)
    greedy = np.array([is_greedy for _, _, is_greedy in groups])
    observation = random_observation(spec, int(rows.sum()), seed)
    logits, value = ActingPolicy(spec, parameters).forward(observation)
    action, log_prob = draw(spec.action, logits, Groups(rows, seeds, greedy))

    last = 0
    for count, group_seed, is_greedy in groups:
        here = slice(last, last + count)
        alone = play(ActingPolicy(spec, parameters, group_seed), observation[here], greedy=is_greedy)
        assert (action[here].tobytes(), log_prob[here].tobytes()) == (alone.action.tobytes(), alone.log_prob.tobytes())
        assert value[here].tobytes() == alone.value.tobytes()
        last += count


@pytest.mark.parametrize("rows", [[2], [2, 2], [4, -1]])
def test_groups_have_all_rows_and_no_more(rows: list[int]) -> None:
    groups = Groups(np.array(rows), np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.bool_))
    with pytest.raises(PolicyError, match=r"rows do not make up 3 rows of outputs"):
        draw(DiscreteSpace(n=2), np.zeros((3, 2), np.float32), groups)


def _tanh(x: NDArray[np.float32]) -> NDArray[np.float32]:
    found = x.copy()
    tanh_of(found, len(found))
    return found


def test_the_hyperbolic_tangent_is_within_its_error_odd_and_rises() -> None:
    top = int(np.float32(9.5).view(np.int32))
    starts = [*range(0, top, top // 200), *(int(np.float32(x).view(np.int32)) for x in (8.5, 9.0, 9.0109, 9.0999))]
    for start in starts:  # of neighbouring numbers
        x = np.arange(start, start + 3000, dtype=np.int32).view(np.float32)
        found, exact = _tanh(x), np.tanh(x.astype(np.float64))
        assert (np.abs(found - exact) <= 0.52 * np.spacing(exact.astype(np.float32))).all(), x[0]
        assert (np.diff(found) >= 0).all(), x[0]
        assert _tanh(-x).tobytes() == (-found).tobytes(), x[0]


def test_the_hyperbolic_tangent_of_what_has_no_neighbours() -> None:
    given = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 9.02], np.float32)
    expected = np.array([0.0, -0.0, np.nan, 1, -1, 1e-45, -1e-45, 1e-38, 1, -1, 1], np.float32)
    np.testing.assert_array_equal(_tanh(given), expected)
    np.testing.assert_array_equal(np.signbit(_tanh(given[:2])), [False, True])


def test_the_hyperbolic_tangent_has_the_same_bits_at_any_place() -> None:
    x = np.random.default_rng(0).normal(0, 3, 67).astype(np.float32)
    whole = _tanh(x)
    for first in range(67):
        assert _tanh(x[first:]).tobytes() == whole[first:].tobytes()
        assert _tanh(x[first : first + 1]).tobytes() == whole[first : first + 1].tobytes()
