"""Algorithms: what a learner makes of a rollout. Each is its settings and two functions, `prepare` and `loss`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Protocol

from pydantic import Field

from rattle.envs.validation import StrictSettings
from rattle.learning.returns import discounted_returns, first_episodes, generalised_advantages
from rattle.learning.rollout import Rollout

if TYPE_CHECKING:  # settings are read where nothing is learnt too, by services that have no PyTorch
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """N samples to learn from; `target` is what the value head should say."""

    observation: Tensor  # (N, row)
    action: Tensor  # (N,) int64
    advantage: Tensor  # (N,) float32
    target: Tensor  # (N,) float32

    def __len__(self) -> int:
        return self.action.shape[0]

    def rows(self, start: int, stop: int) -> Batch:
        """Return a view of some of the samples."""
        part = slice(start, stop)
        return Batch(self.observation[part], self.action[part], self.advantage[part], self.target[part])


class LossParts(NamedTuple):
    """Sums over samples; `total` is what is minimised."""

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor


class Algorithm(Protocol):
    """What a learner needs of an algorithm."""

    @property
    def learning_rate(self) -> float:
        """The optimiser's step size."""

    @property
    def max_gradient_norm(self) -> float:
        """Longer gradients are scaled down to this norm."""

    @property
    def complete_episodes(self) -> bool:
        """Whether rollouts must hold one complete episode of every slot, instead of a fixed number of ticks."""

    @property
    def rollout_ticks(self) -> int:
        """Return the ticks of a rollout: just so many or, where episodes are complete, at most."""

    @property
    def needs_value(self) -> bool:
        """Whether the policy needs a value head."""

    def prepare(self, rollout: Rollout) -> Batch:
        """Return the samples of a rollout."""

    def loss(self, logits: Tensor, value: Tensor, batch: Batch) -> LossParts:
        """Return the sums of the loss over the samples of a batch, or of some rows of one."""


class _Settings(StrictSettings):
    """What both algorithms can be told."""

    # Adam multiplies the two and squares the gradient: within these bounds, a finite gradient leaves everything finite.
    learning_rate: float = Field(1e-3, gt=0, le=1e15, description="Step size of Adam.")
    max_gradient_norm: float = Field(0.5, gt=0, le=1e15, description="Longer gradients are scaled down to this norm.")
    discount: float = Field(0.99, ge=0, le=1, description="What a reward one tick later is worth (gamma).")
    entropy_weight: float = Field(0.01, ge=0, description="Bonus for undecided policies, per nat.")
    value_weight: float = Field(0.5, ge=0, description="Weight of the value head's squared error.")


class A2C(_Settings):
    """Advantage actor-critic (Mnih et al., arXiv 1602.01783) on fixed-length rollouts, with GAE."""

    id: Literal["a2c"] = "a2c"
    ticks: int = Field(16, ge=1, description="Ticks of a rollout.")
    trace_decay: float = Field(0.95, ge=0, le=1, description="Lambda of generalised advantage estimation.")
    normalise_advantages: bool = Field(
        True, description="Shift and scale a rollout's advantages to mean 0, deviation 1."
    )

    @property
    def complete_episodes(self) -> bool:
        """A fixed number of ticks is enough: what comes after is bootstrapped."""
        return False

    @property
    def rollout_ticks(self) -> int:
        """Return the ticks of a rollout."""
        return self.ticks

    @property
    def needs_value(self) -> bool:
        """The critic is the value head."""
        return True

    def prepare(self, rollout: Rollout) -> Batch:
        """Return the samples of a rollout with their advantages; targets are advantage plus predicted value."""
        advantage = generalised_advantages(rollout, self.discount, self.trace_decay)
        batch = _select(rollout, rollout.active, advantage, advantage + rollout.value)
        return _with_normal_advantage(batch) if self.normalise_advantages else batch

    def loss(self, logits: Tensor, value: Tensor, batch: Batch) -> LossParts:
        """Return the sums of the actor-critic loss."""
        return _policy_gradient_loss(logits, value, batch, self.entropy_weight, self.value_weight)


class Reinforce(_Settings):
    """REINFORCE (Williams, Machine Learning 8, 1992) on complete episodes, with normalised returns."""

    id: Literal["reinforce"] = "reinforce"
    max_episode_ticks: int = Field(1000, ge=1, description="Episodes are cut after this many ticks.")
    baseline: bool = Field(False, description="Subtract a learned value from the returns.")
    normalise_returns: bool = Field(True, description="Shift and scale what is learnt from to mean 0, deviation 1.")

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

    def prepare(self, rollout: Rollout) -> Batch:
        """Return the samples of each slot's first episode with their returns, less the baseline if there is one.

        A truncated episode counts as ended: what would have come is not known, and not guessed.
        """
        returns = discounted_returns(rollout.reward, rollout.terminated | rollout.truncated, self.discount)
        chosen = first_episodes(rollout.terminated, rollout.truncated, rollout.active)
        advantage = returns - rollout.value if self.baseline else returns
        batch = _select(rollout, chosen, advantage, returns)
        return _with_normal_advantage(batch) if self.normalise_returns else batch

    def loss(self, logits: Tensor, value: Tensor, batch: Batch) -> LossParts:
        """Return the sums of the policy gradient loss, and of the baseline's error where it is learnt."""
        value_weight = self.value_weight if self.baseline else 0.0
        return _policy_gradient_loss(logits, value, batch, self.entropy_weight, value_weight)


AlgorithmSettings = Annotated[A2C | Reinforce, Field(discriminator="id")]


def _select(rollout: Rollout, chosen: Tensor, advantage: Tensor, target: Tensor) -> Batch:
    """Return the chosen ticks (T, B) of a rollout as flat samples, without copying when all are chosen."""
    parts = (rollout.observation, rollout.action, advantage, target)
    if bool(chosen.all()):
        return Batch(*(part.flatten(0, 1) for part in parts))
    return Batch(*(part[chosen] for part in parts))


def _with_normal_advantage(batch: Batch) -> Batch:
    """Return a batch with its advantages shifted and scaled; a single one stays as it is.

    In 64 bits: the 32-bit mean of equal numbers differs from them by rounding, which the scaling would blow up to 1.
    """
    if len(batch) < 2:
        return batch
    advantage = batch.advantage.double()
    normal = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    return Batch(batch.observation, batch.action, normal.float(), batch.target)


def _policy_gradient_loss(
    logits: Tensor, value: Tensor, batch: Batch, entropy_weight: float, value_weight: float
) -> LossParts:
    log_probs = logits.log_softmax(dim=1)
    taken = log_probs.gather(1, batch.action[:, None]).squeeze(1)
    policy = -(taken * batch.advantage).sum()
    entropy = -(log_probs.exp() * log_probs).sum()
    value_error = 0.5 * (value - batch.target).square().sum()
    total = policy + value_weight * value_error - entropy_weight * entropy
    return LossParts(total, policy, value_error, entropy)
