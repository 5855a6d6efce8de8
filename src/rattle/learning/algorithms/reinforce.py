"""REINFORCE: one step an update, on complete episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rattle.learning.algorithms.algorithm import Batch, Loss, OneStep
from rattle.learning.algorithms.policy_gradient import policy_gradient_loss, select, with_normal_advantage
from rattle.learning.returns import discounted_returns, first_episodes
from rattle.samples.rollout import Rollout
from rattle.samples.spaces import Distribution

if TYPE_CHECKING:
    from torch import Tensor


class Reinforce(OneStep):
    """REINFORCE (Williams, Machine Learning 8, 1992) on complete episodes, with normalised returns."""

    id: Literal["reinforce"] = "reinforce"
    max_episode_ticks: int = Field(1000, ge=1, description="Episodes are cut after this many ticks.")
    baseline: bool = Field(False, description="Subtract a learned value from the returns.")
    normalise_returns: bool = Field(True, description="Shift and scale the returns to mean 0, deviation 1.")

    @property
    def complete_episodes(self) -> bool:
        """Returns are summed to the end of an episode, so it must be there."""
        return True

    @property
    def rollout_ticks(self) -> int:
        """Return the most ticks of a rollout."""
        return self.max_episode_ticks

    @property
    def needs_value(self) -> bool:
        """The baseline is the value head."""
        return self.baseline

    def prepare(self, rollout: Rollout[Tensor]) -> Batch:
        """Return the samples of each slot's first episode with their returns, less the baseline if there is one.

        A truncated episode counts as ended: what would have come is not known, and not guessed.
        """
        returns = discounted_returns(rollout.reward, rollout.terminated | rollout.truncated, self.discount)
        chosen = first_episodes(rollout.terminated, rollout.truncated, rollout.active)
        advantage = returns - rollout.value if self.baseline else returns
        batch = select(rollout, chosen, advantage, returns)
        return with_normal_advantage(batch) if self.normalise_returns else batch

    def loss(self, policy: Distribution, value: Tensor, batch: Batch) -> Loss:
        """Return the sums of the policy gradient loss, and of the baseline's error where it is learnt."""
        value_weight = self.value_weight if self.baseline else 0.0
        return policy_gradient_loss(policy, value, batch, self.entropy_weight, value_weight)
