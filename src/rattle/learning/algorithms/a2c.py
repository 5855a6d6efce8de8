"""Advantage actor-critic: one step an update, on rollouts of a fixed length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rattle.learning.algorithms.algorithm import Batch, Loss, OneStep
from rattle.learning.algorithms.policy_gradient import ActorCritic, policy_gradient_loss, with_normal_advantage
from rattle.samples.rollout import Rollout
from rattle.samples.spaces import Distribution

if TYPE_CHECKING:
    from torch import Tensor


class A2C(ActorCritic, OneStep):
    """Advantage actor-critic (Mnih et al., arXiv 1602.01783) on fixed-length rollouts, with GAE."""

    id: Literal["a2c"] = "a2c"

    def prepare(self, rollout: Rollout[Tensor]) -> Batch:
        """Return the samples of a rollout with their advantages; targets are advantage plus predicted value."""
        batch = self.samples(rollout)
        return with_normal_advantage(batch) if self.normalise_advantages else batch

    def loss(self, policy: Distribution, value: Tensor, batch: Batch) -> Loss:
        """Return the sums of the actor-critic loss."""
        return policy_gradient_loss(policy, value, batch, self.entropy_weight, self.value_weight)
