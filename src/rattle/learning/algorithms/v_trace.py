"""V-trace: what older policies played is corrected by what the policy says of it now."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from rattle.learning.algorithms.algorithm import Batch, Optimisation
from rattle.learning.algorithms.policy_gradient import ActorCritic, select
from rattle.learning.metrics import COMMON, Metric
from rattle.learning.returns import v_trace
from rattle.samples.rollout import Rollout

if TYPE_CHECKING:
    from torch import Tensor


class CorrectedActorCritic(ActorCritic):
    """An actor-critic that learns from rollouts of older policies too, corrected by V-trace (arXiv 1802.01561)."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        *COMMON,
        Metric("mean_rho", "", "How much actions count by V-trace; 1 where the newest policy played everything."),
    )

    correction: Literal["vtrace", "none"] = Field(
        "vtrace",
        description="vtrace: rollouts of older policies, in mode async, are corrected by how likely the policy takes "
        "the same actions now (V-trace); none: they are learnt from as if the newest policy had played them.",
    )
    rho_clip: float = Field(
        1.0, ge=1, description="V-trace: an action counts by its probability now, over that then, up to this."
    )
    c_clip: float = Field(
        1.0,
        ge=1,
        description="V-trace: rewards count for values before an action by that ratio, up to this; at most rho_clip.",
    )

    @field_validator("c_clip")
    @classmethod
    def _is_not_above_rho_clip(cls, c_clip: float, info: ValidationInfo) -> float:
        if c_clip > info.data.get("rho_clip", c_clip):
            raise ValueError(f"at most rho_clip is wanted, {info.data['rho_clip']:g}, got {c_clip:g}")
        return c_clip

    def to_correct(self, rollout: Rollout[Tensor], version: int) -> Tensor | None:
        """Return bool (T, B), the samples that policies before `version` played; None if none needs correction."""
        older = rollout.active & (rollout.policy_version < version)
        return older if self.correction == "vtrace" and bool(older.any()) else None

    def corrected_samples(self, rollout: Rollout[Tensor], optimisation: Optimisation) -> Batch:
        """Return the samples of a rollout, corrected with another pass of what older policies played."""
        older = self.to_correct(rollout, optimisation.version)
        if older is None:
            return self.samples(rollout)
        shown = select(rollout, older, rollout.value, rollout.value)
        policy, value = optimisation.predict(shown)
        return self.corrected(rollout, older, policy.log_prob(shown.flat().action), value)

    def corrected(self, rollout: Rollout[Tensor], older: Tensor, log_prob: Tensor, value: Tensor) -> Batch:
        """Return the samples of a rollout as V-trace corrects them, `weight` being how much their actions count.

        `older` (T, B) are the samples that older policies played; `log_prob` and `value`, (n,), are what the policy
        says of these now, without a gradient, in the order of a batch of them.
        """
        now = rollout.replace(
            log_prob=_put(rollout, rollout.log_prob, older, log_prob), value=_put(rollout, rollout.value, older, value)
        )
        clips = self.rho_clip, self.c_clip
        found = v_trace(rollout, now.log_prob, now.value, self.discount, self.trace_decay, *clips)
        return select(now, rollout.active, found.advantage, found.target, found.rho)


def _put(rollout: Rollout[Tensor], array: Tensor, chosen: Tensor, samples: Tensor) -> Tensor:
    """Return an array (T, B) with other numbers, (n,), at n chosen samples, which are in the order of a batch."""
    if "memory" in rollout.arrays:
        return array.transpose(0, 1).masked_scatter(chosen.transpose(0, 1), samples).transpose(0, 1)
    return array.masked_scatter(chosen, samples)


@dataclass(frozen=True)
class WholeSlots:
    """The samples of a rollout, in chunks of whole slots: V-trace follows each slot through its ticks."""

    rollout: Rollout[Tensor]
    older: Tensor  # (T, B) bool: what older policies played

    @property
    def samples(self) -> int:
        """Return how many samples there are to learn from."""
        return int(self.rollout.active.sum())

    @cached_property
    def shown(self) -> Batch:
        """Return what the network is shown, not corrected; the weights are 1 where older policies played, else 0."""
        rollout = self.rollout
        return select(rollout, rollout.active, rollout.value, rollout.value, self.older.float())

    def chunks(self, size: int) -> list[WholeSlots]:
        """Return views of as many slots as have up to `size` ticks together, or of one."""
        ticks, slots = self.older.shape
        step = max(1, size // ticks)
        cuts = [(first, min(first + step, slots)) for first in range(0, slots, step)]
        return [WholeSlots(self.rollout.of_slots(*cut), self.older[:, slice(*cut)]) for cut in cuts]

    def flat(self) -> WholeSlots:
        """Return the slots themselves."""
        return self
