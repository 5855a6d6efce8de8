"""The learner: its updates against slow ones, exactness, and what bad numbers do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rattle.learning.algorithms import A2C, PPO, Algorithm, Reinforce
from rattle.learning.errors import LearningError
from rattle.learning.learner import CHUNK, Learner, UpdateMetrics, tree_sum
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.spec import PolicySpec
from rattle.samples.rollout import Rollout
from rattle.samples.spaces import CodeSpace, FloatSpace
from tests.learning.rollouts import random_rollout, with_number
from tests.learning.slow import SlowLearner, norm_of, slow_gradient, slow_inputs, slow_loss, slow_samples
from tests.policies.building import network_of, random_parameters

FLOATS = MlpSpec(observation=FloatSpace(size=2), num_actions=3, hidden_sizes=(4,), activation="tanh", value_head=True)
CODES = MlpSpec(
    observation=CodeSpace(cells=2, codes=3), num_actions=2, hidden_sizes=(3, 3), activation="relu", value_head=True
)
NO_VALUE = FLOATS.model_copy(update={"value_head": False})
UNCLIPPED = 1e9


@contextmanager
def learning(spec: PolicySpec, algorithm: A2C | Reinforce, seed: int = 1, threads: int = 1) -> Iterator[Learner]:
    with closing(Learner(spec, algorithm, seed, threads)) as learner:
        yield learner


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU here")


def state_bytes(state: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in state.items()}


def rollouts(spec: PolicySpec, number: int, ticks: int = 8, slots: int = 3) -> list[Rollout]:
    return [random_rollout(spec, ticks, slots, seed) for seed in range(100, 100 + number)]


def gradient_of_first_update(learner: Learner) -> dict[str, NDArray[np.float32]]:
    """Return the clipped gradient of the one update that was made: Adam's first moment is a tenth of it."""
    state = learner.state()
    return {name: state[f"optimiser/exp_avg/{i}"] * 10 for i, name in enumerate(learner.parameters())}


def assert_same_gradient(
    found: Mapping[str, NDArray[np.float32]], expected: Mapping[str, NDArray[np.float64]], accuracy: float = 1e-4
) -> None:
    scale = max(float(np.abs(array).max()) for array in expected.values())
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=accuracy * scale, rtol=0, err_msg=name)


def reported(metrics: UpdateMetrics) -> list[float]:
    return [metrics.values[name] for name in ("policy_loss", "value_loss", "entropy", "gradient_norm")]


CASES: dict[str, tuple[PolicySpec, A2C | Reinforce]] = {
    "a2c on floats": (FLOATS, A2C()),
    "a2c on codes": (CODES, A2C(discount=0.8, trace_decay=0.5, entropy_weight=0.3, value_weight=2.0)),
    "a2c without hidden layers": (FLOATS.model_copy(update={"hidden_sizes": ()}), A2C(trace_decay=1.0)),
    "a2c not normalised": (FLOATS, A2C(normalise_advantages=False, max_gradient_norm=UNCLIPPED)),
    "reinforce on floats": (NO_VALUE, Reinforce(baseline=False)),
    "reinforce on codes": (CODES, Reinforce(baseline=True, discount=0.9, entropy_weight=0.2)),
    "reinforce not normalised": (FLOATS, Reinforce(baseline=True, normalise_returns=False)),
    "reinforce beside an unused value head": (FLOATS, Reinforce(baseline=False, max_gradient_norm=UNCLIPPED)),
}


@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_the_slow_learner(case: str) -> None:
    spec, algorithm = CASES[case]
    with learning(spec, algorithm) as learner:
        # Biases that are not zero: at zero, relu has no slope to compare.
        start = {f"policy/{name}": array for name, array in random_parameters(spec).items()}
        learner.restore({**start, "version": np.array(0)})
        slow = SlowLearner(spec, algorithm, learner.parameters())
        for number, rollout in enumerate(rollouts(spec, 4), start=1):
            metrics = learner.update(rollout)
            loss, norm = slow.update(rollout)
            assert (metrics.policy_version, learner.version) == (number, number)
            assert metrics.samples == len(slow_samples(algorithm, rollout).action)
            assert reported(metrics) == pytest.approx([loss.policy, loss.value, loss.entropy, norm], rel=2e-4, abs=1e-5)
            for name, array in learner.parameters().items():
                np.testing.assert_allclose(array, slow.weights[name], atol=2e-5, rtol=0, err_msg=name)


@pytest.mark.parametrize(
    ("algorithm", "ticks", "slots"),
    [
        (A2C(max_gradient_norm=UNCLIPPED), 16, 400),
        (Reinforce(baseline=True, max_gradient_norm=UNCLIPPED), 40, 400),
    ],
    ids=["a2c", "reinforce"],
)
def test_the_gradient_is_that_of_the_mean_loss_over_several_chunks(
    algorithm: A2C | Reinforce, ticks: int, slots: int
) -> None:
    rollout = random_rollout(FLOATS, ticks, slots, ends=0.05)
    with learning(FLOATS, algorithm, threads=2) as learner:
        weights = {name: array.astype(np.float64) for name, array in learner.parameters().items()}
        metrics = learner.update(rollout)
        found = gradient_of_first_update(learner)
    assert metrics.samples > CHUNK
    assert metrics.samples % CHUNK != 0
    samples = slow_samples(algorithm, rollout)
    assert_same_gradient(found, slow_gradient(FLOATS, algorithm, weights, samples))
    loss = slow_loss(FLOATS, algorithm, weights, samples, slow_inputs(FLOATS, samples.observation))
    assert reported(metrics)[:3] == pytest.approx([loss.policy, loss.value, loss.entropy], rel=1e-4, abs=1e-5)


def test_a_long_gradient_is_scaled_to_the_norm_and_a_short_one_is_left() -> None:
    [rollout] = rollouts(FLOATS, 1)
    norms: dict[float, float] = {}
    lengths: dict[float, float] = {}
    gradients: dict[float, dict[str, NDArray[np.float64]]] = {}
    for limit in (UNCLIPPED, 1e-3):
        with learning(FLOATS, A2C(max_gradient_norm=limit)) as learner:
            lengths[limit] = learner.update(rollout).values["gradient_norm"]
            found = gradient_of_first_update(learner)
        gradients[limit] = {name: array.astype(np.float64) for name, array in found.items()}
        norms[limit] = norm_of(gradients[limit])
    assert norms[UNCLIPPED] == pytest.approx(lengths[UNCLIPPED], rel=1e-5)
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-2)
    assert lengths[1e-3] == lengths[UNCLIPPED]
    scale = 1e-3 / norms[UNCLIPPED]
    assert_same_gradient(
        {name: array.astype(np.float32) for name, array in gradients[1e-3].items()},
        {name: scale * array for name, array in gradients[UNCLIPPED].items()},
        accuracy=1e-2,
    )


def test_one_sample_is_enough() -> None:
    rollout = random_rollout(FLOATS, 1, 1, seed=1, ends=1.0)
    ended = torch.tensor([[True]])
    rollout = rollout.replace(active=ended, terminated=ended, truncated=~ended)
    for algorithm in (A2C(), Reinforce(baseline=True)):
        with learning(FLOATS, algorithm) as learner:
            before = learner.parameters()
            assert learner.update(rollout).samples == 1
            assert any((array != before[name]).any() for name, array in learner.parameters().items())


def learnt(threads: int, spec: PolicySpec, algorithm: Algorithm) -> dict[str, bytes]:
    """Return the state after three updates on some 10,000 samples."""
    with learning(spec, algorithm, threads=threads) as learner:
        for rollout in rollouts(spec, 3, ticks=50, slots=301):
            learner.update(rollout)
        return state_bytes(learner.state())


@pytest.mark.parametrize(
    ("spec", "algorithm"),
    [
        (FLOATS.model_copy(update={"hidden_sizes": (65, 33)}), A2C()),
        (CODES.model_copy(update={"hidden_sizes": (64,)}), Reinforce(baseline=True)),
        (FLOATS.model_copy(update={"hidden_sizes": (65, 33)}), PPO(minibatches=2)),
    ],
    ids=["a2c", "reinforce", "ppo"],
)
def test_any_number_of_threads_gives_the_same_bytes(spec: PolicySpec, algorithm: Algorithm) -> None:
    expected = learnt(1, spec, algorithm)
    assert learnt(2, spec, algorithm) == expected
    assert learnt(3, spec, algorithm) == expected


@pytest.mark.parametrize("chunks", [*range(1, 20), 64, 100])
def test_processes_that_hold_aligned_blocks_of_chunks_give_the_same_bytes(chunks: int) -> None:
    generator = torch.Generator().manual_seed(chunks)
    gradients = [torch.randn(50, generator=generator) * 10 ** (chunk % 5) for chunk in range(chunks)]
    whole = tree_sum(gradients)
    np.testing.assert_allclose(whole, torch.stack(gradients).double().sum(dim=0), rtol=1e-4, atol=1e-1)
    for block in (1, 2, 4, 8, 16, 32):
        processes = [gradients[first : first + block] for first in range(0, chunks, block)]
        assert tree_sum([tree_sum(own) for own in processes]).numpy().tobytes() == whole.numpy().tobytes()


def test_sums_are_those_of_pairs_and_then_of_pairs_of_pairs() -> None:
    a, b, c, d, e, f, g = (1.0, 1e16, -1e16, 3.0, 1e-3, 7.7, 3e7)
    assert tree_sum([a, b, c, d, e, f, g]) == ((a + b) + (c + d)) + ((e + f) + g)
    assert tree_sum([a, b, c, d, e]) == ((a + b) + (c + d)) + e
    assert tree_sum([a, b, c, d]) != a + b + c + d
    assert tree_sum([a]) == a


@pytest.mark.parametrize("threads", [1, 3])
def test_the_chunks_of_a_gradient_are_added_up_in_the_tree(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rattle.learning.learner.CHUNK", 8)
    algorithm = A2C(max_gradient_norm=UNCLIPPED)
    rollout = random_rollout(FLOATS, 5, 8, ends=0.0)
    rollout = rollout.replace(active=torch.ones((5, 8), dtype=torch.bool))
    with learning(FLOATS, algorithm, threads=threads) as learner:
        network = network_of(FLOATS, learner.parameters())
        learner.update(rollout)
        found = gradient_of_first_update(learner)
    chunks = [algorithm.prepare(rollout).rows(at, at + 8) for at in range(0, 40, 8)]
    outputs = [network(chunk.observation) for chunk in chunks]
    losses = [
        algorithm.loss(FLOATS.action.distribution(logits), value, chunk).total / 40
        for (logits, value), chunk in zip(outputs, chunks, strict=True)
    ]
    gradients = [torch.autograd.grad(loss, list(network.parameters())) for loss in losses]
    for name, parts in zip(found, zip(*gradients, strict=True), strict=True):
        assert (found[name] == (0.1 * tree_sum(parts)).numpy() * 10).all(), name


def test_pytorch_threads_of_the_caller_do_not_matter() -> None:
    """Factorisations and large sums round differently with PyTorch's own threads: with the cores of the machine."""
    spec = MlpSpec(
        observation=CodeSpace(cells=30, codes=3),
        num_actions=3,
        hidden_sizes=(64, 64),
        activation="relu",
        value_head=True,
    )
    rollout = random_rollout(spec, 101, 1001, ends=0.01)
    own = torch.get_num_threads()
    states = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            with learning(spec, A2C()) as learner:
                learner.update(rollout)
                states.append(state_bytes(learner.state()))
    finally:
        torch.set_num_threads(own)
    assert states[0] == states[1] == states[2]


def test_a_seed_decides_the_first_weights() -> None:
    def first_weights(seed: int) -> dict[str, bytes]:
        with learning(FLOATS, A2C(), seed) as learner:
            assert learner.version == 0
            return state_bytes(learner.state())

    assert first_weights(1) == first_weights(1) != first_weights(2)
    assert first_weights(2**64 - 1)


@pytest.mark.parametrize("updates_before", [0, 1, 3])
@pytest.mark.parametrize("case", ["a2c on codes", "reinforce on floats", "ppo"])
def test_a_restored_learner_continues_with_the_same_bytes(case: str, updates_before: int) -> None:
    spec, algorithm = {**CASES, "ppo": (CODES, PPO(anneal_updates=5))}[case]
    history = rollouts(spec, updates_before + 3)
    seed = 1 if case == "ppo" else 2  # PPO draws minibatches by its seed; the others draw first weights only
    with learning(spec, algorithm) as original, learning(spec, algorithm, seed=seed) as copy:
        copy.update(random_rollout(spec, 8, 3, seed=7))  # what it learnt before must leave no trace
        for rollout in history[:updates_before]:
            original.update(rollout)
        copy.restore(original.state())
        assert copy.version == updates_before
        for rollout in history[updates_before:]:
            assert copy.update(rollout) == original.update(rollout)
        assert state_bytes(copy.state()) == state_bytes(original.state())


def test_states_and_parameters_are_copies() -> None:
    with learning(FLOATS, A2C()) as learner:
        learner.update(rollouts(FLOATS, 1)[0])
        before, taken = state_bytes(learner.state()), learner.state()
        for array in [*learner.parameters().values(), *taken.values()]:
            array += 1
        assert state_bytes(learner.state()) == before
        learner.restore(taken)
        kept = state_bytes(learner.state())
        for array in taken.values():
            array += 1
        assert state_bytes(learner.state()) == kept != before


def changed(state: Mapping[str, NDArray[Any]], **changes: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
    """Return a state with some arrays replaced, or left out where None is given; __ stands for a slash."""
    merged = {**state, **{name.replace("__", "/"): array for name, array in changes.items()}}
    return {name: array for name, array in merged.items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": None}, "the stored state of the learner lacks 'version'"),
        ({"policy__policy.bias": None}, r"the stored weights do not fit this policy: expected the parameters"),
        ({"policy__policy.bias": np.zeros(4, np.float32)}, r"policy.bias must be float32 \(3,\), got float32 \(4,\)"),
        ({"policy__policy.bias": np.zeros(3)}, r"policy.bias must be float32 \(3,\), got float64 \(3,\)"),
        ({"optimiser__step__2": None}, "the stored state of the learner lacks 'optimiser/step/2'"),
        (
            {"optimiser__exp_avg__1": np.zeros(5, np.float32)},
            r"exp_avg of weight 1 must be float32 \(4,\), got float32",
        ),
        ({"optimiser__exp_avg__1": np.zeros(4)}, r"exp_avg of weight 1 must be float32 \(4,\), got float64 \(4,\)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    changes: dict[str, NDArray[Any] | None], message: str
) -> None:
    with learning(FLOATS, A2C()) as learner, learning(FLOATS, A2C(), seed=2) as other:
        learner.update(rollouts(FLOATS, 1)[0])
        other.update(rollouts(FLOATS, 2)[1])
        before = state_bytes(learner.state())
        with pytest.raises(LearningError, match=message):
            learner.restore(changed(other.state(), **changes))
        assert state_bytes(learner.state()) == before


BAD_NUMBERS = {
    "a reward that is not a number": ("reward", np.nan, r"the policy loss is nan"),
    "an infinite reward": ("reward", np.inf, r"the policy loss is (nan|inf)"),
    "an infinite observation": ("observation", np.inf, r"the (policy loss|value loss|gradient norm) is (nan|inf)"),
    "an observation that is not a number": ("observation", np.nan, r"the policy loss is nan"),
    "a value that is not a number": ("value", np.nan, r"the policy loss is nan"),
    "a reward too large to square": ("reward", 1e30, r"the value loss is inf"),
}


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("what", BAD_NUMBERS)
def test_bad_numbers_stop_the_update_and_leave_no_trace(what: str, activation: str) -> None:
    name, number, message = BAD_NUMBERS[what]
    spec = FLOATS.model_copy(update={"activation": activation})
    good = rollouts(spec, 2)
    with learning(spec, A2C()) as learner, learning(spec, A2C()) as unharmed:
        for each in (learner, unharmed):
            each.update(good[0])
        before = state_bytes(learner.state())
        with pytest.raises(LearningError, match=f"update 2: {message}, so the update was not made: look for rewards"):
            learner.update(with_number(good[0], name, number))
        assert state_bytes(learner.state()) == before
        assert learner.version == 1
        assert learner.update(good[1]) == unharmed.update(good[1])
        assert state_bytes(learner.state()) == state_bytes(unharmed.state())


def test_a_gradient_too_long_to_measure_stops_the_update() -> None:
    rollout = random_rollout(FLOATS, 1, 20, ends=1.0)
    with learning(FLOATS, A2C(value_weight=1e6, normalise_advantages=False)) as learner:
        before = state_bytes(learner.state())
        with pytest.raises(LearningError, match="update 1: the gradient norm is inf"):
            learner.update(with_number(rollout, "reward", 1e19))
        assert state_bytes(learner.state()) == before


def test_a_learning_rate_that_explodes_stops_at_the_update_that_cannot_be_made() -> None:
    with learning(CODES, A2C(learning_rate=1e15)) as learner:
        first, second = rollouts(CODES, 2)
        learner.update(first)
        before = state_bytes(learner.state())
        with pytest.raises(LearningError, match=r"update 2: the .* lower algorithm\.learning_rate"):
            learner.update(second)
        assert state_bytes(learner.state()) == before
        assert all(np.isfinite(array).all() for array in learner.state().values())


@pytest.mark.parametrize("number", [1e-8, 1.0, 1e15])
def test_finite_gradients_leave_finite_weights_and_moments_at_the_limits_of_the_settings(number: float) -> None:
    algorithm = A2C(learning_rate=1e15, max_gradient_norm=1e15, normalise_advantages=False)
    rollout = rollouts(FLOATS, 1)[0]
    with learning(FLOATS, algorithm) as learner:
        learner.update(rollout.replace(reward=rollout.reward * number, value=rollout.value * number))
        assert all(np.isfinite(array).all() for array in learner.state().values())


def test_a_rollout_without_samples_says_what_to_do() -> None:
    rollout = random_rollout(FLOATS, 4, 3, ends=0.0)
    dead = rollout.replace(active=torch.zeros_like(rollout.active))
    for algorithm, given, message in (
        (Reinforce(), rollout, r"no episode ended in it: raise algorithm\.max_episode_ticks"),
        (A2C(), dead, "no agent was alive in it"),
    ):
        with learning(FLOATS, algorithm) as learner:
            before = state_bytes(learner.state())
            with pytest.raises(LearningError, match=f"update 1: the rollout holds nothing to learn from: {message}"):
                learner.update(given)
            assert state_bytes(learner.state()) == before


def test_unused_rows_do_not_matter() -> None:
    """What dead agents' rows hold, and what comes after a first episode for REINFORCE, is never learnt from."""
    for algorithm in (A2C(), Reinforce(baseline=True)):
        rollout = random_rollout(FLOATS, 12, 6, ends=0.3)
        dead = ~rollout.active
        other = rollout.replace(
            observation=torch.where(dead[:, :, None], 5.0, rollout.observation),
            action=torch.where(dead, 2, rollout.action),
            log_prob=torch.where(dead, -9.0, rollout.log_prob),
        )
        states = []
        for given in (rollout, other):
            with learning(FLOATS, algorithm) as learner:
                learner.update(given)
                states.append(state_bytes(learner.state()))
        assert dead.any()
        assert states[0] == states[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_asked_for_in_vain() -> None:
    with pytest.raises(
        LearningError, match=r"^train\.device is cuda, but PyTorch finds no GPU here: set train\.device=cpu$"
    ):
        Learner(FLOATS, A2C(), 1, device="cuda")


@needs_gpu
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_learns_the_same_up_to_rounding(case: str) -> None:
    spec, algorithm = CASES[case]
    history = rollouts(spec, 3, ticks=40, slots=301)
    with learning(spec, algorithm) as here, closing(Learner(spec, algorithm, 1, device="cuda")) as there:
        assert state_bytes(there.state()) == state_bytes(here.state())
        for rollout in history:
            expected, found = here.update(rollout), there.update(rollout)
            assert found.samples == expected.samples
            assert found.values["gradient_norm"] == pytest.approx(expected.values["gradient_norm"], rel=1e-3)
        for name, array in there.parameters().items():
            np.testing.assert_allclose(array, here.parameters()[name], atol=1e-4, rtol=0, err_msg=name)


@needs_gpu
def test_a_gpu_repeats_itself_and_goes_on_from_a_state_of_the_cpu() -> None:
    spec = CODES.model_copy(update={"hidden_sizes": (64, 64)})
    first, second = rollouts(spec, 2, ticks=50, slots=301)
    with learning(spec, A2C()) as learner:
        learner.update(first)
        begun = learner.state()
    ends = []
    for _ in range(2):
        with closing(Learner(spec, A2C(), 2, threads=2, device="cuda")) as learner:
            learner.restore(begun)
            assert state_bytes(learner.state()) == state_bytes(begun)
            learner.update(second)
            ends.append(state_bytes(learner.state()))
    assert ends[0] == ends[1]
