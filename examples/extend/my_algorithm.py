"""An algorithm: several steps on each rollout, whose policy may move only so far from the one that played."""

from dataclasses import replace

from pydantic import Field
from torch import Tensor

from rattle.extend import COMMON, ActorCritic, Batch, Distribution, Loss, Metric, Optimisation, Rollout


class Clipped(ActorCritic):
    """Policy gradient with a clipped ratio, in whole passes over the rollout."""

    metrics = (*COMMON, Metric("held_share", "", "Share of the samples whose ratio the clipping held."))

    clip: float = Field(0.2, gt=0, description="How far the ratio of new to old probability may go from 1.")
    passes: int = Field(3, ge=1, description="Steps on each rollout.")

    def update(self, rollout: Rollout[Tensor], optimisation: Optimisation) -> dict[str, float]:
        """Take the steps, and report the last."""
        batch = self.samples(rollout)
        batch = replace(batch, advantage=batch.advantage / (batch.advantage.std() + 1e-8))
        steps = [optimisation.step(batch, self.loss, self.learning_rate) for _ in range(self.passes)]
        return {**steps[-1], "learning_rate": self.learning_rate}

    def loss(self, policy: Distribution, value: Tensor, batch: Batch) -> Loss:
        """Return the loss, summed over some of the samples."""
        ratio = (policy.log_prob(batch.action) - batch.log_prob).exp()
        held = ratio.clamp(1 - self.clip, 1 + self.clip)
        gain = (ratio * batch.advantage).minimum(held * batch.advantage).sum()
        error = 0.5 * (value - batch.target).square().sum()
        entropy = policy.entropy()
        total = -gain + self.value_weight * error - self.entropy_weight * entropy
        sums = {"policy_loss": -gain, "value_loss": error, "entropy": entropy, "held_share": (ratio != held).sum()}
        return Loss(total, sums)
