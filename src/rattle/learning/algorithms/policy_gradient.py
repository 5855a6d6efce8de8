"""What policy gradient algorithms share: samples from a rollout, their normalisation, and the plain loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from rattle.learning.algorithms.algorithm import Algorithm, Batch, Loss, Sequences
from rattle.learning.returns import episode_starts, generalised_advantages
from rattle.samples.rollout import Rollout
from rattle.samples.spaces import Distribution

if TYPE_CHECKING:
    from torch import Tensor


class ActorCritic(Algorithm):
    """What algorithms share that learn from rollouts of a fixed length, with a value head as critic."""

    ticks: int = Field(16, ge=1, description="Ticks of a rollout.")
    trace_decay: float = Field(0.95, ge=0, le=1, description="Lambda of generalised advantage estimation.")
    normalise_advantages: bool = Field(
        True, description="Shift and scale the advantages of a step's samples to mean 0, deviation 1."
    )

    @property
    def rollout_ticks(self) -> int:
        """Return the ticks of a rollout."""
        return self.ticks

    def samples(self, rollout: Rollout[Tensor]) -> Batch:
        """Return the samples of a rollout with their advantages; targets are advantage plus predicted value."""
        advantage = generalised_advantages(rollout, self.discount, self.trace_decay)
        return select(rollout, rollout.active, advantage, advantage + rollout.value)


def select(
    rollout: Rollout[Tensor], chosen: Tensor, advantage: Tensor, target: Tensor, weight: Tensor | None = None
) -> Batch:
    """Return the chosen ticks (T, B) of a rollout as flat samples, without copying when all are chosen.

    Where the policy that played has memory, they are whole sequences, a row a slot. Without a `weight` all count 1.
    """
    weight = advantage.new_ones(advantage.shape) if weight is None else weight
    parts = (rollout.observation, rollout.action, advantage, target, rollout.log_prob, rollout.value, weight)
    own = rollout.arrays.get("own")

    def batch(part: Callable[[Tensor], Tensor], sequences: Sequences | None = None) -> Batch:
        return Batch(*map(part, parts), own=None if own is None else part(own), sequences=sequences)

    if "memory" in rollout.arrays:
        sequences = Sequences(rollout.memory, episode_starts(rollout).transpose(0, 1), chosen.transpose(0, 1))
        return batch(lambda part: part.transpose(0, 1), sequences)
    if bool(chosen.all()):
        return batch(lambda part: part.flatten(0, 1))
    rows = chosen.flatten().nonzero()[:, 0]  # a mask would be gone through for each part again
    return batch(lambda part: part.flatten(0, 1).index_select(0, rows))


def with_normal_advantage(batch: Batch) -> Batch:
    """Return a batch with its advantages shifted and scaled to mean 0, deviation 1; a single one stays as it is."""
    return replace(batch, advantage=scaled(batch.advantage, *moments(batch.flat().advantage)))


def moments(advantage: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of advantages (N,), and their deviation plus a bit; 0 and 1 of fewer than two.

    In 64 bits: the 32-bit mean of equal numbers differs from them by rounding, which the scaling would blow up to 1.
    """
    exact = advantage.double()
    if len(exact) < 2:
        return exact.new_zeros(()), exact.new_ones(())
    return exact.mean(), exact.std() + 1e-8


def scaled(advantage: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return advantages, float32, less a mean and in units of a deviation."""
    return ((advantage.double() - mean) / deviation).float()


def policy_gradient_loss(
    policy: Distribution, value: Tensor, batch: Batch, entropy_weight: float, value_weight: float
) -> Loss:
    """Return the loss whose gradient is the policy gradient, with an entropy bonus and the value head's error."""
    entropy = policy.entropy()
    policy_loss = -(policy.log_prob(batch.action) * batch.advantage).sum()
    value_error = 0.5 * (value - batch.target).square().sum()
    total = policy_loss + value_weight * value_error - entropy_weight * entropy
    return Loss(total, {"policy_loss": policy_loss, "value_loss": value_error, "entropy": entropy})
