"""Advantage actor-critic: one step an update, on rollouts of a fixed length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rattle.learning.algorithms.algorithm import Algorithm, Batch, Loss, Optimisation
from rattle.learning.algorithms.policy_gradient import policy_gradient_loss, select, with_normal_advantage
from rattle.learning.returns import generalised_advantages
from rattle.learning.rollout import Rollout

if TYPE_CHECKING:
    from torch import Tensor


class A2C(Algorithm):
    """Advantage actor-critic (Mnih et al., arXiv 1602.01783) on fixed-length rollouts, with GAE."""

    id: Literal["a2c"] = "a2c"
    ticks: int = Field(16, ge=1, description="Ticks of a rollout.")
    trace_decay: float = Field(0.95, ge=0, le=1, description="Lambda of generalised advantage estimation.")
    normalise_advantages: bool = Field(
        True, description="Shift and scale a rollout's advantages to mean 0, deviation 1."
    )

    @property
    def rollout_ticks(self) -> int:
        """Return the ticks of a rollout."""
        return self.ticks

    def update(self, rollout: Rollout, optimisation: Optimisation) -> dict[str, float]:
        """Take one step."""
        done = optimisation.step(self.prepare(rollout), self.loss, self.learning_rate)
        return {**done, "learning_rate": self.learning_rate}

    def prepare(self, rollout: Rollout) -> Batch:
        """Return the samples of a rollout with their advantages; targets are advantage plus predicted value."""
        advantage = generalised_advantages(rollout, self.discount, self.trace_decay)
        batch = select(rollout, rollout.active, advantage, advantage + rollout.value)
        return with_normal_advantage(batch) if self.normalise_advantages else batch

    def loss(self, logits: Tensor, value: Tensor, batch: Batch) -> Loss:
        """Return the sums of the actor-critic loss."""
        return policy_gradient_loss(logits, value, batch, self.entropy_weight, self.value_weight)
