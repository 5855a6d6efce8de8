"""What a learner does, computed slowly: by definition, in plain Python loops and 64-bit numbers.

Nothing here shares a formula with the package: sums are written out instead of carried backwards, and gradients are
differences of losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.learning.algorithms import A2C, PPO, Reinforce
from rattle.policies.spec import PolicySpec
from rattle.samples.rollout import Rollout
from rattle.samples.spaces import CodeSpace

Weights = dict[str, NDArray[np.float64]]


@dataclass
class Samples:
    """What is learnt from, sample by sample."""

    observation: list[NDArray[Any]] = field(default_factory=list)
    action: list[int] = field(default_factory=list)
    advantage: list[float] = field(default_factory=list)
    target: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Loss:
    """Means over samples."""

    total: float
    policy: float
    value: float
    entropy: float


def episode_end(rollout: Rollout, tick: int, slot: int) -> int:
    """Return the tick at which the episode that a slot is in at `tick` ends, or the last of the rollout."""
    ticks = rollout.reward.shape[0]
    while tick < ticks - 1 and not (rollout.terminated[tick, slot] or rollout.truncated[tick, slot]):
        tick += 1
    return tick


def of_moves(rollout: Rollout, slot: int) -> Rollout:
    """Return the rows of one slot in which it was active, as a rollout of its own, (moves, 1)."""
    rows = [tick for tick in range(rollout.ticks) if rollout.active[tick, slot]]
    names = [name for name, array in rollout.arrays.items() if array.shape[:2] == rollout.active.shape]
    own = {name: getattr(rollout, name)[rows, slot : slot + 1] for name in names}
    return Rollout({**own, "last_value": rollout.last_value[slot : slot + 1]})


def slow_return(rollout: Rollout, tick: int, slot: int, discount: float) -> float:
    """Return the discounted sum of the rewards from a tick to the end of its episode."""
    last = episode_end(rollout, tick, slot)
    return sum(discount ** (t - tick) * float(rollout.reward[t, slot]) for t in range(tick, last + 1))


def slow_advantage(rollout: Rollout, tick: int, slot: int, discount: float, trace_decay: float) -> float:
    """Return the generalised advantage estimate as its paper defines it: a weighted sum of one-step errors."""
    value = rollout.value.double().numpy()

    def error(t: int) -> float:
        following = worth_after(rollout, t, slot, value[:, slot])
        return float(rollout.reward[t, slot] + discount * following - value[t, slot])

    last = episode_end(rollout, tick, slot)
    return sum((discount * trace_decay) ** (t - tick) * error(t) for t in range(tick, last + 1))


def worth_after(rollout: Rollout, tick: int, slot: int, worth: NDArray[np.float64]) -> float:
    """Return what follows after a tick of a slot is worth, if observations at its ticks are worth so much, (T,)."""
    if rollout.terminated[tick, slot]:
        return 0.0
    if rollout.truncated[tick, slot]:
        return float(rollout.final_value[tick, slot])
    return float(rollout.last_value[slot] if tick == rollout.ticks - 1 else worth[tick + 1])


@dataclass(frozen=True)
class SlowVTrace:
    """V-trace as its paper (arXiv 1802.01561) defines it, for one slot; all (T,).

    `value` and `ratio` are V(x_t) and pi(a_t | x_t) / mu(a_t | x_t).
    """

    rollout: Rollout
    slot: int
    value: NDArray[np.float64]
    ratio: NDArray[np.float64]
    algorithm: A2C | PPO

    def rho(self, t: int) -> float:
        """Return rho_t."""
        return min(self.algorithm.rho_clip, float(self.ratio[t]))

    def c(self, t: int) -> float:
        """Return c_t, as in remark 2."""
        return self.algorithm.trace_decay * min(self.algorithm.c_clip, float(self.ratio[t]))

    def target(self, s: int) -> float:
        """Return v_s, equation 1."""
        discount, total = self.algorithm.discount, float(self.value[s])
        for t in range(s, episode_end(self.rollout, s, self.slot) + 1):
            following = worth_after(self.rollout, t, self.slot, self.value)
            error = float(self.rollout.reward[t, self.slot]) + discount * following - float(self.value[t])
            traces = prod(self.c(i) for i in range(s, t))
            total += discount ** (t - s) * traces * self.rho(t) * error
        return total

    def advantage(self, s: int) -> float:
        """Return what rho_s weighs in the policy gradient: r_s + discount v_{s+1} - V(x_s) where lambda is 1.

        With another lambda so much of v_{s+1} counts, and V(x_{s+1}) in its place: without that, no lambda but 1 would
        give the generalised advantage where nothing is corrected.
        """
        ticks, share = range(self.rollout.ticks), self.algorithm.trace_decay
        targets = np.array([self.target(t) if t == s + 1 else 0.0 for t in ticks])
        v_next = worth_after(self.rollout, s, self.slot, targets)
        value_next = worth_after(self.rollout, s, self.slot, self.value)
        following = share * v_next + (1 - share) * value_next
        return float(self.rollout.reward[s, self.slot]) + self.algorithm.discount * following - float(self.value[s])


def slow_samples(algorithm: A2C | Reinforce, rollout: Rollout) -> Samples:
    """Return what an algorithm learns from, tick by tick and then slot by slot."""
    samples = Samples()
    ticks, slots = rollout.reward.shape
    for tick in range(ticks):
        for slot in range(slots):
            if not rollout.active[tick, slot]:
                continue
            value = float(rollout.value[tick, slot])
            if isinstance(algorithm, A2C):
                advantage = slow_advantage(rollout, tick, slot, algorithm.discount, algorithm.trace_decay)
                target = advantage + value
            elif in_first_episode(rollout, tick, slot):
                target = slow_return(rollout, tick, slot, algorithm.discount)
                advantage = target - value if algorithm.baseline else target
            else:
                continue
            samples.observation.append(rollout.observation[tick, slot].numpy())
            samples.action.append(int(rollout.action[tick, slot]))
            samples.advantage.append(advantage)
            samples.target.append(target)
    normalise = algorithm.normalise_advantages if isinstance(algorithm, A2C) else algorithm.normalise_returns
    if normalise and len(samples.advantage) > 1:
        mean, deviation = fmean(samples.advantage), stdev(samples.advantage)
        samples.advantage = [(advantage - mean) / (deviation + 1e-8) for advantage in samples.advantage]
    return samples


def slow_corrected(
    algorithm: A2C | PPO, spec: PolicySpec, weights: Weights, rollout: Rollout, version: int
) -> tuple[Samples, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return what is learnt from where older policies played, and of each sample rho, log-probability and value.

    The log-probabilities and values, (N,), are those of the policy with these weights for what policies before
    `version` played, and of the policy that played for the rest, whose rho is 1.
    """
    ticks, slots = rollout.ticks, rollout.slots
    inputs = slow_inputs(spec, [row.numpy() for row in rollout.observation.flatten(0, 1)])
    log_probs, values = slow_outputs(spec, weights, inputs)
    log_prob, value = rollout.log_prob.double().numpy(), rollout.value.double().numpy()
    ratio = np.ones((ticks, slots))
    for tick, slot in np.ndindex(ticks, slots):
        if rollout.active[tick, slot] and rollout.policy_version[slot] < version:
            now = log_probs[tick * slots + slot, int(rollout.action[tick, slot])]
            ratio[tick, slot] = np.exp(now - log_prob[tick, slot])
            log_prob[tick, slot], value[tick, slot] = now, values[tick * slots + slot]
    samples, rho = Samples(), []
    for tick, slot in np.ndindex(ticks, slots):
        if rollout.active[tick, slot]:
            traced = SlowVTrace(rollout, slot, value[:, slot], ratio[:, slot], algorithm)
            samples.observation.append(rollout.observation[tick, slot].numpy())
            samples.action.append(int(rollout.action[tick, slot]))
            samples.advantage.append(traced.advantage(tick))
            samples.target.append(traced.target(tick))
            rho.append(traced.rho(tick))
    active = rollout.active.numpy()
    return samples, np.array(rho), log_prob[active], value[active]


def in_first_episode(rollout: Rollout, tick: int, slot: int) -> bool:
    """Whether a tick belongs to the first episode of its slot, and that episode ends in the rollout."""
    first_end = episode_end(rollout, 0, slot)
    ends = bool(rollout.terminated[first_end, slot] or rollout.truncated[first_end, slot])
    return ends and tick <= first_end


def slow_inputs(spec: PolicySpec, observation: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Return the network's inputs (N, inputs)."""
    if not isinstance(spec.observation, CodeSpace):
        return np.array(observation, np.float64)
    inputs = np.zeros((len(observation), spec.observation.inputs))
    for row, cells in enumerate(observation):
        for cell, code in enumerate(cells):
            if code > 0:
                inputs[row, (int(code) - 1) * spec.observation.cells + cell] = 1
    return inputs


def slow_loss(
    spec: PolicySpec, algorithm: A2C | Reinforce, weights: Weights, samples: Samples, inputs: NDArray[np.float64]
) -> Loss:
    """Return the mean losses of a policy over samples."""
    log_probs, value = slow_outputs(spec, weights, inputs)
    taken = log_probs[np.arange(len(inputs)), samples.action]
    policy = -float(np.mean(np.array(samples.advantage) * taken))
    entropy = -float(np.mean((np.exp(log_probs) * log_probs).sum(axis=1)))
    value_loss = float(np.mean((value - np.array(samples.target)) ** 2)) / 2
    learns_value = isinstance(algorithm, A2C) or algorithm.baseline
    total = policy - algorithm.entropy_weight * entropy + algorithm.value_weight * value_loss * learns_value
    return Loss(total, policy, value_loss, entropy)


def slow_outputs(
    spec: PolicySpec, weights: Weights, inputs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the log-probabilities of all actions, (N, actions), and the values, (N,)."""
    hidden = inputs
    for layer in range(len(spec.hidden_sizes)):
        hidden = hidden @ weights[f"trunk.{layer}.weight"].T + weights[f"trunk.{layer}.bias"]
        hidden = np.tanh(hidden) if spec.activation == "tanh" else np.maximum(hidden, 0)
    logits = hidden @ weights["policy.weight"].T + weights["policy.bias"]
    value = np.zeros(len(logits))
    if spec.value_head:
        value = (hidden @ weights["value.weight"].T + weights["value.bias"])[:, 0]
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), value


def slow_gradient(spec: PolicySpec, algorithm: A2C | Reinforce, weights: Weights, samples: Samples) -> Weights:
    """Return the gradient of the total loss by central differences."""
    inputs = slow_inputs(spec, samples.observation)
    step = 1e-6
    gradient = {name: np.zeros_like(array) for name, array in weights.items()}
    for name, array in weights.items():
        for index in np.ndindex(array.shape):
            kept = array[index]
            losses = []
            for number in (kept + step, kept - step):
                array[index] = number
                losses.append(slow_loss(spec, algorithm, weights, samples, inputs).total)
            array[index] = kept
            gradient[name][index] = (losses[0] - losses[1]) / (2 * step)
    return gradient


def norm_of(gradient: Weights) -> float:
    """Return the length of a gradient."""
    return float(np.sqrt(sum((array**2).sum() for array in gradient.values())))


class SlowLearner:
    """Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1) on the slow gradient."""

    def __init__(
        self, spec: PolicySpec, algorithm: A2C | Reinforce, parameters: Mapping[str, NDArray[np.float32]]
    ) -> None:
        self.spec, self.algorithm = spec, algorithm
        self.weights = {name: array.astype(np.float64) for name, array in parameters.items()}
        self.first = {name: np.zeros_like(array) for name, array in self.weights.items()}
        self.second = {name: np.zeros_like(array) for name, array in self.weights.items()}
        self.updates = 0

    def update(self, rollout: Rollout) -> tuple[Loss, float]:
        """Take a step; return the loss before it and the length of the gradient before clipping."""
        samples = slow_samples(self.algorithm, rollout)
        inputs = slow_inputs(self.spec, samples.observation)
        loss = slow_loss(self.spec, self.algorithm, self.weights, samples, inputs)
        gradient = slow_gradient(self.spec, self.algorithm, self.weights, samples)
        norm = norm_of(gradient)
        scale = min(1.0, self.algorithm.max_gradient_norm / norm)
        self.updates += 1
        for name, weight in self.weights.items():
            clipped = scale * gradient[name]
            self.first[name] = 0.9 * self.first[name] + 0.1 * clipped
            self.second[name] = 0.999 * self.second[name] + 0.001 * clipped**2
            mean = self.first[name] / (1 - 0.9**self.updates)
            square = self.second[name] / (1 - 0.999**self.updates)
            weight -= self.algorithm.learning_rate * mean / (np.sqrt(square) + 1e-5)
        return loss, norm
