"""Advantage actor-critic: one step an update, on rollouts of a fixed length."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from rattle.learning.algorithms.algorithm import Batch, Loss, LossFunction, OneStep, Optimisation
from rattle.learning.algorithms.policy_gradient import moments, policy_gradient_loss, scaled, with_normal_advantage
from rattle.learning.algorithms.v_trace import CorrectedActorCritic, WholeSlots
from rattle.learning.returns import generalised_advantages
from rattle.samples.rollout import Rollout
from rattle.samples.spaces import Distribution

if TYPE_CHECKING:
    from torch import Tensor


class A2C(CorrectedActorCritic, OneStep):
    """Advantage actor-critic (Mnih et al., arXiv 1602.01783) on fixed-length rollouts, with GAE."""

    id: Literal["a2c"] = "a2c"

    def update(self, rollout: Rollout[Tensor], optimisation: Optimisation) -> dict[str, float]:
        """Take the step; a rollout of older policies does not go through `prepare`, but is corrected in the loss.

        So it needs no other pass through the network.
        """
        older = self.to_correct(rollout, optimisation.version)
        if older is None:
            return {**super().update(rollout, optimisation), "mean_rho": 1.0}
        done = optimisation.step(WholeSlots(rollout, older), self._corrected_loss(rollout), self.learning_rate)
        return {**done, "learning_rate": self.learning_rate}

    def prepare(self, rollout: Rollout[Tensor]) -> Batch:
        """Return the samples of a rollout with their advantages; targets are advantage plus predicted value."""
        batch = self.samples(rollout)
        return with_normal_advantage(batch) if self.normalise_advantages else batch

    def loss(self, policy: Distribution, value: Tensor, batch: Batch) -> Loss:
        """Return the sums of the actor-critic loss."""
        return policy_gradient_loss(policy, value, batch, self.entropy_weight, self.value_weight)

    def _corrected_loss(self, rollout: Rollout[Tensor]) -> LossFunction[WholeSlots]:
        """Return the loss that corrects advantages and targets itself.

        Advantages are shifted and scaled as they would be without the correction, since a chunk does not know those of
        others. The weights come after that: a shift leaves the mean of the gradient as it is if it is weighted too.
        """
        uncorrected = generalised_advantages(rollout, self.discount, self.trace_decay)
        mean, deviation = moments(uncorrected[rollout.active])

        def loss(policy: Distribution, value: Tensor, chunk: WholeSlots) -> Loss:
            shown = chunk.shown.flat()
            older, log_prob = shown.weight.bool(), policy.log_prob(shown.action).detach()
            batch = self.corrected(chunk.rollout, chunk.older, log_prob[older], value.detach()[older]).flat()
            advantage = scaled(batch.advantage, mean, deviation) if self.normalise_advantages else batch.advantage
            found = self.loss(policy, value, replace(batch, advantage=batch.weight * advantage))
            return Loss(found.total, {**found.sums, "mean_rho": batch.weight.sum()})

        return loss
