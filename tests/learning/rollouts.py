"""Rollouts of random games, with every kind of end and with dead agents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rattle.policies.spec import PolicySpec
from rattle.samples.rollout import Rollout, as_tensors

#: A policy version that no learner has left behind.
NEWEST = 2**62


def random_rollout(spec: PolicySpec, ticks: int, slots: int, seed: int = 0, ends: float = 0.2) -> Rollout[torch.Tensor]:
    """Return what random agents might have lived through; an episode ends with probability `ends` at each tick.

    Rows of dead agents hold an observation of zeros and no reward, but actions, values and log-probabilities, as a
    batch that is played as a whole does.
    """
    generator = np.random.default_rng(seed)
    shape = (ticks, slots)
    ended = generator.random(shape) < ends
    cut = generator.random(shape) < 0.4
    rests = generator.integers(0, 4, shape)  # ticks that an agent stays dead after its end
    active = np.ones(shape, np.bool_)
    for slot in range(slots):
        dead = int(generator.integers(0, 3))  # it may have died before the rollout
        for tick in range(ticks):
            active[tick, slot] = dead == 0
            ended[tick, slot] &= dead == 0
            dead = max(0, dead - 1)
            if ended[tick, slot] and not cut[tick, slot]:
                dead = int(rests[tick, slot])
    observation = spec.observation.draw(generator, *shape) * active[:, :, None].astype(np.uint8)
    truncated = ended & cut

    def normal(*size: int) -> NDArray[np.float32]:
        return generator.normal(size=size).astype(np.float32)

    arrays: dict[str, NDArray[Any]] = {
        "observation": observation,
        "action": spec.action.draw(generator, *shape),
        "log_prob": -np.abs(normal(*shape)),
        "value": normal(*shape) if spec.value_head else np.zeros(shape, np.float32),
        "reward": normal(*shape) * active,
        "terminated": ended & ~cut,
        "truncated": truncated,
        "active": active,
        "final_value": normal(*shape) * truncated,
        "last_value": normal(slots),
        "policy_version": np.full(slots, NEWEST),
    }
    return as_tensors(Rollout(arrays))


def with_waits(rollout: Rollout[torch.Tensor], share: float, seed: int) -> Rollout[torch.Tensor]:
    """Return a rollout in which each agent was not active for a `share` of the ticks, in the midst of its episodes.

    As in every rollout, nothing ends and nothing is earned in those rows; ends that stood there are gone.
    """
    generator = np.random.default_rng(seed)
    acts = rollout.active & torch.from_numpy(generator.random(rollout.active.shape) >= share)
    return rollout.replace(
        active=acts,
        reward=rollout.reward * acts,
        terminated=rollout.terminated & acts,
        truncated=rollout.truncated & acts,
        final_value=rollout.final_value * acts,
    )


def with_number(rollout: Rollout[torch.Tensor], name: str, number: float) -> Rollout[torch.Tensor]:
    """Return a copy of a rollout whose array `name` holds `number` at the first tick of the first living slot."""
    array: torch.Tensor = getattr(rollout, name).clone()
    slot = int(rollout.active[0].int().argmax())
    assert rollout.active[0, slot]
    array[0, slot] = number
    return rollout.replace(**{name: array})
