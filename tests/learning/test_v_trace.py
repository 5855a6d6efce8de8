"""V-trace against its paper's formulas, in plain loops, and what it must not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.learning.algorithms import A2C, PPO
from rattle.learning.learner import Learner
from rattle.learning.returns import generalised_advantages, v_trace
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.spec import PolicySpec
from rattle.samples.rollout import Rollout
from rattle.samples.spaces import CodeSpace, FloatSpace
from tests.learning.rollouts import random_rollout
from tests.learning.slow import SlowVTrace, norm_of, slow_corrected, slow_gradient, slow_inputs, slow_loss, slow_samples
from tests.policies.building import random_parameters

SPEC = MlpSpec(observation=FloatSpace(size=2), num_actions=3, hidden_sizes=(3,), activation="tanh", value_head=True)
CODES = MlpSpec(
    observation=CodeSpace(cells=2, codes=3), num_actions=2, hidden_sizes=(3,), activation="tanh", value_head=True
)
VERSION = 9
UNCLIPPED = 1e9

Given = Rollout[torch.Tensor]


@contextmanager
def learning(algorithm: A2C | PPO, spec: PolicySpec = SPEC, threads: int = 1) -> Iterator[Learner]:
    """Give a learner that has made some updates already."""
    with closing(Learner(spec, algorithm, 3, threads)) as learner:
        start = {f"policy/{name}": array for name, array in random_parameters(spec).items()}
        learner.restore({**start, "version": np.array(VERSION)})
        yield learner


def aged(rollout: Given, *ages: int) -> Given:
    """Return a rollout whose slots were played so many updates ago, over and over."""
    return rollout.replace(policy_version=VERSION - torch.tensor(ages).repeat(rollout.slots)[: rollout.slots])


def after_an_update(
    algorithm: A2C | PPO, rollout: Given, spec: PolicySpec = SPEC, threads: int = 1
) -> dict[str, bytes]:
    with learning(algorithm, spec, threads) as learner:
        learner.update(rollout)
        return {name: array.tobytes() for name, array in learner.state().items()}


fractions = st.sampled_from([0.0, 1.0]) | st.floats(0.1, 0.99)
clips = st.sampled_from([1.0, 1.3, 2.5, 1e6])


@settings(max_examples=80)
@given(
    ticks=st.integers(1, 10),
    slots=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    ends=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    discount=fractions,
    trace_decay=fractions,
    rho_clip=clips,
    c_clip=clips,
)
def test_targets_and_advantages_are_those_of_the_paper(
    ticks: int, slots: int, seed: int, ends: float, discount: float, trace_decay: float, rho_clip: float, c_clip: float
) -> None:
    c_clip = min(c_clip, rho_clip)
    algorithm = A2C(discount=discount, trace_decay=trace_decay, rho_clip=rho_clip, c_clip=c_clip)
    rollout = random_rollout(SPEC, ticks, slots, seed, ends)
    now = random_rollout(SPEC, ticks, slots, seed + 1)
    log_prob, value = rollout.log_prob + 0.5 * now.value, now.reward
    found = v_trace(rollout, log_prob, value, discount, trace_decay, rho_clip, c_clip)
    ratio = (log_prob - rollout.log_prob).double().exp().numpy()
    for tick, slot in rollout.active.nonzero().tolist():
        slow = SlowVTrace(rollout, slot, value[:, slot].double().numpy(), ratio[:, slot], algorithm)
        expected = [slow.advantage(tick), slow.target(tick), slow.rho(tick)]
        assert [float(each[tick, slot]) for each in found] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_ends_by_hand() -> None:
    """Discount 0.5, lambda 1, reward 1, values 10, ratios 2 and 0.5: slot by slot goes on, dies, is cut."""
    no = torch.zeros((2, 3), dtype=torch.bool)
    terminated, truncated = no.clone(), no.clone()
    terminated[1, 1] = truncated[1, 2] = True
    rollout = random_rollout(SPEC, 2, 3).replace(
        reward=torch.ones((2, 3)),
        log_prob=torch.zeros((2, 3)),
        terminated=terminated,
        truncated=truncated,
        final_value=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 8.0]]),
        last_value=torch.tensor([4.0, 40.0, 400.0]),
    )
    log_prob = torch.tensor([[2.0], [0.5]]).log().expand(2, 3)
    found = v_trace(rollout, log_prob, torch.full((2, 3), 10.0), 0.5, 1.0, 1.0, 1.0)
    torch.testing.assert_close(found.rho, torch.tensor([[1.0], [0.5]]).expand(2, 3))
    after = torch.tensor([4.0, 0.0, 8.0])
    torch.testing.assert_close(found.advantage[1], 1 + 0.5 * after - 10)
    torch.testing.assert_close(found.target[1], 10 + 0.5 * (1 + 0.5 * after - 10))
    torch.testing.assert_close(found.advantage[0], 1 + 0.5 * found.target[1] - 10)
    torch.testing.assert_close(found.target[0], 1 + 0.5 * found.target[1])


@settings(max_examples=60)
@given(
    ticks=st.integers(1, 12),
    slots=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    ends=st.sampled_from([0.0, 0.2, 1.0]),
    discount=fractions,
    trace_decay=fractions,
)
def test_what_the_newest_policy_played_has_its_generalised_advantages_bit_for_bit(
    ticks: int, slots: int, seed: int, ends: float, discount: float, trace_decay: float
) -> None:
    rollout = random_rollout(SPEC, ticks, slots, seed, ends)
    found = v_trace(rollout, rollout.log_prob, rollout.value, discount, trace_decay, 1.0, 1.0)
    expected = generalised_advantages(rollout, discount, trace_decay)
    assert found.advantage.numpy().tobytes() == expected.numpy().tobytes()
    assert found.target.numpy().tobytes() == (expected + rollout.value).numpy().tobytes()
    assert (found.rho == 1).all()


@pytest.mark.parametrize("algorithm", [A2C(), PPO()], ids=["a2c", "ppo"])
@pytest.mark.parametrize("age", [0, -5])
def test_an_update_from_the_newest_policy_has_the_bits_of_the_uncorrected_one(algorithm: A2C | PPO, age: int) -> None:
    rollout = random_rollout(SPEC, 16, 300)
    plain = algorithm.model_copy(update={"correction": "none"})
    assert after_an_update(algorithm, aged(rollout, age)) == after_an_update(plain, rollout)
    assert after_an_update(plain, aged(rollout, 3)) == after_an_update(plain, rollout)
    assert after_an_update(algorithm, aged(rollout, 3)) != after_an_update(plain, rollout)


A2C_CASES = {
    "plain": A2C(),
    "not normalised": A2C(normalise_advantages=False, max_gradient_norm=UNCLIPPED),
    "clipped elsewhere": A2C(rho_clip=1.7, c_clip=1.2, trace_decay=0.7, discount=0.9, max_gradient_norm=UNCLIPPED),
}


@pytest.mark.parametrize("spec", [SPEC, CODES], ids=["floats", "codes"])
@pytest.mark.parametrize("ages", [(1,), (0, 8, 0, 2)], ids=["older", "mixed"])
@pytest.mark.parametrize("case", A2C_CASES)
def test_the_gradient_is_that_of_the_corrected_loss_by_finite_differences(
    case: str, ages: tuple[int, ...], spec: PolicySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rattle.learning.learner.CHUNK", 8)  # more than one
    algorithm = A2C_CASES[case]
    rollout = aged(random_rollout(spec, 6, 5), *ages)
    with learning(algorithm, spec) as learner:
        weights = {name: array.astype(np.float64) for name, array in learner.parameters().items()}
        values = learner.update(rollout).values
        moments = learner.state()
        found = {name: moments[f"optimiser/exp_avg/{i}"] * 10 for i, name in enumerate(learner.parameters())}
    samples, rho, _, _ = slow_corrected(algorithm, spec, weights, rollout, VERSION)
    if algorithm.normalise_advantages:
        unscaled = algorithm.model_copy(update={"normalise_advantages": False})
        uncorrected = slow_samples(unscaled, rollout).advantage
        samples.advantage = [(a - fmean(uncorrected)) / (stdev(uncorrected) + 1e-8) for a in samples.advantage]
    samples.advantage = list(rho * np.array(samples.advantage))
    loss = slow_loss(spec, algorithm, weights, samples, slow_inputs(spec, samples.observation))
    gradient = slow_gradient(spec, algorithm, weights, samples)
    norm = norm_of(gradient)
    scale = min(1.0, algorithm.max_gradient_norm / norm)
    for name, array in gradient.items():
        np.testing.assert_allclose(found[name], scale * array, rtol=0, atol=1e-3 * scale * norm, err_msg=name)
    assert [values[name] for name in ("policy_loss", "value_loss", "entropy", "gradient_norm", "mean_rho")] == (
        pytest.approx([loss.policy, loss.value, loss.entropy, norm, rho.mean()], rel=1e-3, abs=1e-4)
    )
    assert set(values) == {metric.name for metric in algorithm.metrics}


@pytest.mark.parametrize("algorithm", [A2C(), PPO(passes=1, minibatches=1, value_clip=None)], ids=["a2c", "ppo"])
def test_an_older_policys_actions_teach_what_the_policys_own_would(algorithm: A2C | PPO) -> None:
    """One decision, 3 actions: an older policy took them in shares of 2:1:1, the policy takes them in shares of 1:2:1.

    Each action is there as often as it is likely, so means over samples are means over the policies.
    """
    reward = torch.tensor([1.0, -2.0, 0.5])
    spec = SPEC.model_copy(update={"hidden_sizes": ()})
    head = {"policy.weight": np.zeros((3, 2)), "policy.bias": np.log([1, 2, 1]), "value.weight": np.zeros((1, 2))}
    start = {name: array.astype(np.float32) for name, array in {**head, "value.bias": np.array([0.25])}.items()}
    chosen = {"normalise_advantages": False, "max_gradient_norm": UNCLIPPED, "rho_clip": 10.0}
    gradients = {}
    for case, actions, shares, age, correction in (
        ("own", [0, 1, 1, 2], [1, 2, 1], 0, "vtrace"),
        ("corrected", [0, 0, 1, 2], [2, 1, 1], 4, "vtrace"),
        ("not corrected", [0, 0, 1, 2], [2, 1, 1], 4, "none"),
    ):
        action = torch.tensor([actions])
        everywhere = torch.ones((1, 4), dtype=torch.bool)
        rollout = aged(random_rollout(spec, 1, 4), age).replace(
            observation=torch.ones((1, 4, 2)),
            action=action,
            reward=reward[action],
            log_prob=(torch.tensor(shares) / 4).log()[action],
            value=torch.full((1, 4), 0.25),
            active=everywhere,
            terminated=everywhere,
            truncated=~everywhere,
            final_value=torch.zeros((1, 4)),
        )
        with closing(Learner(spec, algorithm.model_copy(update={**chosen, "correction": correction}), 0)) as learner:
            learner.restore(
                {**{f"policy/{name}": array for name, array in start.items()}, "version": np.array(VERSION)}
            )
            learner.update(rollout)
            state = learner.state()
            gradients[case] = np.concatenate([state[f"optimiser/exp_avg/{i}"].ravel() for i in range(4)])
    np.testing.assert_allclose(gradients["corrected"], gradients["own"], atol=1e-6)
    assert np.abs(gradients["not corrected"] - gradients["own"]).max() > 1e-3


@pytest.mark.parametrize("algorithm", [A2C(), PPO(minibatches=2, passes=2)], ids=["a2c", "ppo"])
@pytest.mark.parametrize("ages", [(1,), (0, 2)], ids=["older", "mixed"])
def test_any_number_of_threads_gives_the_same_bytes(algorithm: A2C | PPO, ages: tuple[int, ...]) -> None:
    rollout = aged(random_rollout(SPEC, 16, 801), *ages)
    expected = after_an_update(algorithm, rollout)
    assert after_an_update(algorithm, rollout, threads=2) == expected
    assert after_an_update(algorithm, rollout, threads=3) == expected


def test_chunks_and_dead_agents_matter_by_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot whose agent is dead all the time makes a chunk of no samples; one with more ticks than fit is a chunk."""
    rollout = aged(random_rollout(SPEC, 16, 6), 2)
    rollout.active[:, 2] = rollout.terminated[:, 2] = rollout.truncated[:, 2] = False
    found = []
    for chunk in (4096, 16, 3):
        monkeypatch.setattr("rattle.learning.learner.CHUNK", chunk)
        with learning(A2C()) as learner:
            learner.update(rollout)
            found.append(learner.state())
    for name, array in found[0].items():
        for other in found[1:]:
            np.testing.assert_allclose(other[name], array, atol=2e-5, err_msg=name)


def test_impossible_actions_count_nothing_and_overwhelming_ratios_are_clipped() -> None:
    rollout = random_rollout(SPEC, 4, 2, ends=0.0)
    log_prob = rollout.log_prob + torch.tensor([-1e30, 200.0])
    found = v_trace(rollout, log_prob, rollout.value, 0.9, 0.9, 1.0, 1.0)
    assert found.rho.tolist() == [[0.0, 1.0]] * 4
    assert torch.equal(found.target[:, 0], rollout.value[:, 0])
    assert torch.isfinite(found.advantage).all()
