"""How likely a policy finds each action in what was observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.analytics.replay.episodes import AgentSteps
from rattle.policies.acting import ActingPolicy
from rattle.policies.file import StoredPolicy
from rattle.services.dashboard.source import NotThere


@dataclass(frozen=True)
class Likelihoods:
    """What a policy makes of an episode."""

    name: str  # of the policy
    version: int
    played: bool  # it is the version that played all of the episode
    probabilities: NDArray[np.float64]  # (ticks, values): of each value of each whole number of an action
    choices: tuple[int, ...]  # how many values each number has

    def columns(self, action: NDArray[Any]) -> NDArray[np.int64]:
        """Return (ticks, numbers): which columns actions of several numbers, or of one, have chosen."""
        first = np.cumsum([0, *self.choices[:-1]])
        return np.asarray(action.reshape(len(action), -1) + first, np.int64)


def choose(policies: Mapping[str, StoredPolicy], wanted: str, steps: AgentSteps) -> Likelihoods | None:
    """Return the likelihoods by a policy: the one that is wanted, or that played, or the newest; None without any.

    Raises NotThere for a policy that is not at hand, and PolicyError for one of another environment.
    """
    if wanted and wanted not in policies:
        raise NotThere(f"the policy '{wanted}' of the run is not at hand")
    played = {int(version) for version in np.unique(steps.policy_version)}
    by_default = sorted(policies, key=lambda name: {policies[name].version} != played)  # stable: the newest is first
    name = wanted or next(iter(by_default), "")
    numbers = steps.action.shape[1] if steps.action.ndim > 1 else 1
    if not name or len(policies[name].spec.action.choices) != numbers:  # real numbers have densities
        return None
    policy = policies[name]
    found = _probabilities(policy, steps)
    return Likelihoods(name, policy.version, {policy.version} == played, found, policy.spec.action.choices)


def _probabilities(policy: StoredPolicy, steps: AgentSteps) -> NDArray[np.float64]:
    space = policy.spec.observation
    acting = ActingPolicy(policy.spec, policy.parameters)
    observed = steps.observation.astype(space.dtype)
    observed = observed.reshape(len(observed), *space.shape) if observed.shape[1] == np.prod(space.shape) else observed
    if policy.spec.memory_size:
        state = np.zeros((1, policy.spec.memory_size), np.float32)
        found = []
        for row, action, reward in zip(observed, steps.action, steps.reward, strict=True):
            found.append(acting.forward(row[None], state)[0])
            acting.own.acted(state, action[None])
            acting.own.rewarded(state, reward[None])
        outputs = np.concatenate(found)
    else:
        outputs = acting.forward(observed)[0]
    ends = np.cumsum(policy.spec.action.choices)[:-1]
    return np.concatenate([_softmax(logits) for logits in np.split(outputs.astype(np.float64), ends, axis=1)], axis=1)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
