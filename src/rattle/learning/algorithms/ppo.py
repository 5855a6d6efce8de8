"""Proximal policy optimisation: several passes over a rollout, in minibatches, with a clipped ratio."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from rattle.envs.seeds import derive_seed
from rattle.learning.algorithms.algorithm import Batch, Loss, LossFunction, Optimisation
from rattle.learning.algorithms.policy_gradient import with_normal_advantage
from rattle.learning.algorithms.v_trace import CorrectedActorCritic
from rattle.learning.metrics import Metric
from rattle.samples.rollout import Rollout
from rattle.samples.spaces import Distribution

if TYPE_CHECKING:
    from torch import Tensor


class PPO(CorrectedActorCritic):
    """Proximal policy optimisation (Schulman et al., arXiv 1707.06347) with GAE."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        *CorrectedActorCritic.metrics,
        Metric("approx_kl", "nats", "How far the update has moved the policy: the mean of ratio - 1 - log ratio."),
        Metric("clip_fraction", "", "Share of the samples whose ratio was clipped."),
        Metric("passes", "", "Passes over the rollout that were made."),
    )

    id: Literal["ppo"] = "ppo"
    ticks: int = Field(32, ge=1, description="Ticks of a rollout.")
    passes: int = Field(4, ge=1, le=1000, description="Passes over each rollout (epochs).")
    minibatches: int = Field(4, ge=1, le=2**16, description="Parts of a rollout; each pass takes one step on each.")
    clip: float = Field(0.2, gt=0, description="The ratio of new to old probability counts up to 1 ± this.")
    value_clip: float | None = Field(
        None, gt=0, description="Values count up to this far from what the old policy predicted; null: any distance."
    )
    max_kl: float | None = Field(
        None, gt=0, description="No further pass once the policy has moved so far, in nats; null: all passes."
    )
    anneal_updates: int | None = Field(
        None,
        ge=1,
        description="The learning rate and the entropy bonus fall to a tenth over so many updates; null: they stay.",
    )

    def update(self, rollout: Rollout[Tensor], optimisation: Optimisation) -> dict[str, float]:
        """Pass over the rollout several times, in minibatches of samples that are drawn again for each pass."""
        batch = self.corrected_samples(rollout, optimisation)
        left = self._left(optimisation.version)
        learning_rate, loss = self.learning_rate * left, self._loss(self.entropy_weight * left)
        steps: list[dict[str, float]] = []
        passes = 0
        for passes in range(1, self.passes + 1):
            first = len(steps)
            for samples in self._minibatches(batch, derive_seed(optimisation.seed, "pass", passes)):
                part = batch.pick(samples)
                if batch.samples and not part.samples:  # slots in which nobody lived
                    continue
                part = with_normal_advantage(part) if self.normalise_advantages else part
                part = replace(part, advantage=part.weight * part.advantage)
                steps.append(optimisation.step(part, loss, learning_rate))
            if self.max_kl is not None and _mean(steps[first:], "approx_kl") > self.max_kl:
                break
        means = {name: _mean(steps, name) for name in steps[0]}
        mean_rho = float(batch.flat().weight.mean())
        return {**means, "learning_rate": learning_rate, "mean_rho": mean_rho, "passes": passes}

    def _left(self, version: int) -> float:
        """Return what is left of learning rate and entropy bonus after so many updates."""
        return 1.0 if self.anneal_updates is None else 1.0 - 0.9 * min(1.0, version / self.anneal_updates)

    def _minibatches(self, batch: Batch, seed: int) -> list[Tensor]:
        """Return the numbers of all samples, shuffled by counter-based draws, in parts of nearly the same size."""
        import torch

        draws = np.random.Philox(key=seed).random_raw(len(batch))
        order = torch.from_numpy(np.argsort(draws, kind="stable")).to(batch.action.device)
        return list(order.tensor_split(min(self.minibatches, max(1, len(batch)))))

    def _loss(self, entropy_weight: float) -> LossFunction[Batch]:
        def loss(policy: Distribution, value: Tensor, batch: Batch) -> Loss:
            entropy = policy.entropy()
            log_ratio = policy.log_prob(batch.action) - batch.log_prob
            ratio = log_ratio.exp()
            held = ratio.clamp(1 - self.clip, 1 + self.clip)
            policy_loss = -(ratio * batch.advantage).minimum(held * batch.advantage).sum()
            value_error = 0.5 * self._value_error(value, batch).sum()
            total = policy_loss + self.value_weight * value_error - entropy_weight * entropy
            sums = {
                "policy_loss": policy_loss,
                "value_loss": value_error,
                "entropy": entropy,
                "approx_kl": (ratio - 1 - log_ratio).sum(),
                "clip_fraction": ((ratio - 1).abs() > self.clip).sum(),
            }
            return Loss(total, sums)

        return loss

    def _value_error(self, value: Tensor, batch: Batch) -> Tensor:
        """Return the squared error of each value; where values are clipped, the larger of the two errors."""
        error = (value - batch.target).square()
        if self.value_clip is None:
            return error
        held = batch.value + (value - batch.value).clamp(-self.value_clip, self.value_clip)
        return error.maximum((held - batch.target).square())


def _mean(steps: list[dict[str, float]], name: str) -> float:
    return sum(step[name] for step in steps) / len(steps)
