"""PPO against a slow computation of its own: finite differences, Adam by hand, minibatches drawn by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rattle.envs.seeds import derive_seed
from rattle.learning.algorithms import PPO
from rattle.learning.errors import LearningError
from rattle.learning.learner import Learner
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.spec import PolicySpec
from rattle.samples.rollout import Rollout
from rattle.samples.spaces import FloatSpace
from tests.learning.rollouts import random_rollout
from tests.learning.slow import Samples, Weights, norm_of, slow_corrected, slow_inputs
from tests.policies.building import random_parameters

SPEC = MlpSpec(observation=FloatSpace(size=2), num_actions=3, hidden_sizes=(3,), activation="tanh", value_head=True)
SEED = 11
CASES = {
    "plain": PPO(passes=3, minibatches=3, learning_rate=0.01),
    "nothing is held": PPO(passes=2, minibatches=1, clip=1e6, learning_rate=0.01),
    "all is held": PPO(passes=3, minibatches=2, clip=0.001, value_clip=0.01, learning_rate=0.02),
    "values are clipped": PPO(passes=3, minibatches=2, value_clip=0.05, learning_rate=0.02),
    "not normalised": PPO(passes=2, minibatches=2, normalise_advantages=False, max_gradient_norm=1e9),
    "annealed": PPO(passes=1, minibatches=2, anneal_updates=2, entropy_weight=0.5, learning_rate=0.02),
    "rho and c are clipped elsewhere": PPO(passes=2, minibatches=2, rho_clip=2.5, c_clip=1.2, trace_decay=0.8),
    "more minibatches than samples": PPO(passes=1, minibatches=1000, normalise_advantages=False),
}


@contextmanager
def learning(algorithm: PPO, spec: PolicySpec = SPEC, version: int = 0) -> Iterator[Learner]:
    with closing(Learner(spec, algorithm, SEED)) as learner:
        start = {f"policy/{name}": array for name, array in random_parameters(spec).items()}
        learner.restore({**start, "version": np.array(version)})
        yield learner


def slow_loss(
    algorithm: PPO,
    entropy_weight: float,
    weights: Weights,
    part: Samples,
    log_prob: NDArray[np.float64],
    value: NDArray[np.float64],
) -> tuple[float, dict[str, float]]:
    """Return the mean loss of some samples, and what is reported of it."""
    hidden = np.tanh(slow_inputs(SPEC, part.observation) @ weights["trunk.0.weight"].T + weights["trunk.0.bias"])
    logits = hidden @ weights["policy.weight"].T + weights["policy.bias"]
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    new_value = (hidden @ weights["value.weight"].T + weights["value.bias"])[:, 0]
    advantage, target = np.array(part.advantage), np.array(part.target)
    log_ratio = log_probs[np.arange(len(logits)), part.action] - log_prob
    ratio = np.exp(log_ratio)
    policy = -np.mean(np.minimum(ratio * advantage, np.clip(ratio, 1 - algorithm.clip, 1 + algorithm.clip) * advantage))
    errors = (new_value - target) ** 2
    if algorithm.value_clip is not None:
        near = value + np.clip(new_value - value, -algorithm.value_clip, algorithm.value_clip)
        errors = np.maximum(errors, (near - target) ** 2)
    entropy = -np.mean((np.exp(log_probs) * log_probs).sum(axis=1))
    found = {
        "policy_loss": policy,
        "value_loss": np.mean(errors) / 2,
        "entropy": entropy,
        "approx_kl": np.mean(ratio - 1 - log_ratio),
        "clip_fraction": np.mean(np.abs(ratio - 1) > algorithm.clip),
    }
    return policy + algorithm.value_weight * np.mean(errors) / 2 - entropy_weight * entropy, found


def slow_gradient(weights: Weights, loss: Callable[[], float]) -> Weights:
    """Return the gradient by central differences."""
    step = 1e-6
    gradient = {name: np.zeros_like(array) for name, array in weights.items()}
    for name, array in weights.items():
        for index in np.ndindex(array.shape):
            kept, losses = array[index], []
            for number in (kept + step, kept - step):
                array[index] = number
                losses.append(loss())
            array[index] = kept
            gradient[name][index] = (losses[0] - losses[1]) / (2 * step)
    return gradient


class SlowPPO:
    """PPO (arXiv 1707.06347, algorithm 1) with Adam (arXiv 1412.6980, algorithm 1)."""

    def __init__(self, algorithm: PPO, weights: Weights, version: int = 0) -> None:
        self.algorithm, self.weights, self.steps, self.version = algorithm, weights, 0, version
        self.first = {name: np.zeros_like(array) for name, array in weights.items()}
        self.second = {name: np.zeros_like(array) for name, array in weights.items()}

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Make an update and return the means of what its steps report."""
        algorithm = self.algorithm
        left = 1.0
        if algorithm.anneal_updates is not None:
            left = 1 - 0.9 * min(1.0, self.version / algorithm.anneal_updates)
        whole, rho, log_prob, value = slow_corrected(algorithm, SPEC, self.weights, rollout, self.version)
        seed = derive_seed(SEED, "update", self.version)
        reports: list[dict[str, float]] = []
        for number in range(1, algorithm.passes + 1):
            draws = np.random.Philox(key=derive_seed(seed, "pass", number)).random_raw(len(whole.action))
            order = np.argsort(draws, kind="stable")
            for chosen in np.array_split(order, min(algorithm.minibatches, len(order))):
                advantage = np.array(whole.advantage)[chosen]
                if algorithm.normalise_advantages:
                    advantage = (advantage - advantage.mean()) / (advantage.std(ddof=1) + 1e-8)
                advantage = rho[chosen] * advantage
                part = Samples(
                    [whole.observation[i] for i in chosen],
                    [whole.action[i] for i in chosen],
                    list(advantage),
                    [whole.target[i] for i in chosen],
                )
                bonus = algorithm.entropy_weight * left
                given = (algorithm, bonus, self.weights, part, log_prob[chosen], value[chosen])
                report = slow_loss(*given)[1]
                gradient = slow_gradient(self.weights, lambda given=given: slow_loss(*given)[0])
                reports.append({**report, "gradient_norm": norm_of(gradient)})
                self._step(gradient, algorithm.learning_rate * left)
        self.version += 1
        means = {name: float(np.mean([report[name] for report in reports])) for name in reports[0]}
        return {**means, "mean_rho": float(rho.mean())}

    def _step(self, gradient: Weights, learning_rate: float) -> None:
        scale = min(1.0, self.algorithm.max_gradient_norm / norm_of(gradient))
        self.steps += 1
        for name, weight in self.weights.items():
            self.first[name] = 0.9 * self.first[name] + 0.1 * scale * gradient[name]
            self.second[name] = 0.999 * self.second[name] + 0.001 * (scale * gradient[name]) ** 2
            mean, square = self.first[name] / (1 - 0.9**self.steps), self.second[name] / (1 - 0.999**self.steps)
            weight -= learning_rate * mean / (np.sqrt(square) + 1e-5)


@pytest.mark.parametrize("ages", [(0, 0, 0, 0), (1, 8, 2, 1), (0, 3, 0, 1)], ids=["newest", "older", "mixed"])
@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_the_slow_computation(case: str, ages: tuple[int, ...]) -> None:
    algorithm, first = CASES[case], 8 if any(ages) else 0
    with learning(algorithm, version=first) as learner:
        weights = {name: array.astype(np.float64) for name, array in learner.parameters().items()}
        slow = SlowPPO(algorithm, weights, version=first)
        for number in range(2):
            versions = learner.version - torch.tensor(ages)
            rollout = random_rollout(SPEC, 6, 4, seed=10 + number).replace(policy_version=versions)
            found = learner.update(rollout).values
            expected = slow.update(rollout)
            assert set(found) == {metric.name for metric in algorithm.metrics}
            assert {name: found[name] for name in expected} == pytest.approx(expected, rel=2e-3, abs=2e-5)
            for name, array in learner.parameters().items():
                np.testing.assert_allclose(array, slow.weights[name], atol=1e-4, rtol=0, err_msg=name)
        if case == "annealed" and first == 0:
            assert found["learning_rate"] == pytest.approx(0.02 * 0.55)


def test_passes_stop_when_the_policy_has_moved_far_enough() -> None:
    rollout = random_rollout(SPEC, 16, 8)
    passes = {}
    for most in (None, 1e-9, 1e9):
        with learning(PPO(passes=5, max_kl=most, learning_rate=0.01)) as learner:
            passes[most] = learner.update(rollout).values["passes"]
    assert passes == {None: 5, 1e-9: 1, 1e9: 5}


def test_an_update_that_fails_in_a_later_step_is_undone_whole() -> None:
    """The first step is finite and throws the weights so far that the second is not."""
    good, bad = random_rollout(SPEC, 16, 8, seed=1), random_rollout(SPEC, 16, 8, seed=2)
    algorithm = PPO(learning_rate=1e-3)
    explosive = algorithm.model_copy(update={"learning_rate": 1e15})
    spec = SPEC.model_copy(update={"activation": "relu"})
    with learning(algorithm, spec) as learner, learning(algorithm, spec) as unharmed:
        for each in (learner, unharmed):
            each.update(good)
        before = {name: array.tobytes() for name, array in learner.state().items()}
        learner.algorithm = explosive
        with pytest.raises(LearningError, match=r"update 2: the .* is (nan|inf), so the update was not made"):
            learner.update(bad)
        learner.algorithm = algorithm
        assert {name: array.tobytes() for name, array in learner.state().items()} == before
        assert learner.update(bad) == unharmed.update(bad)
        assert learner.version == 2
