"""What actors hand to a learner."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, device


@dataclass(frozen=True)
class Rollout:
    """T ticks of B slots, played by one version of a policy.

    Row t of a slot holds what it observed, what it did then, and what came of it. Rows of slots whose agent was dead
    (`active` false) end no episode and are never learnt from, whatever else they hold.
    """

    policy_version: int
    observation: Tensor  # (T, B, row) uint8 or float32
    action: Tensor  # (T, B) int64
    log_prob: Tensor  # (T, B) float32, nats: of the action, when it was chosen
    value: Tensor  # (T, B) float32: predicted return, 0 without a value head
    reward: Tensor  # (T, B) float32
    terminated: Tensor  # (T, B) bool
    truncated: Tensor  # (T, B) bool, never where terminated
    active: Tensor  # (T, B) bool
    final_value: Tensor  # (T, B) float32: where truncated, the value of the last observation; 0 elsewhere
    last_value: Tensor  # (B,) float32: the value of the observation after the last tick

    def to(self, place: device) -> Rollout:
        """Return the rollout in a device's memory; the very same tensors where they are there already."""
        names = [field.name for field in fields(self) if field.name != "policy_version"]
        return Rollout(self.policy_version, **{name: getattr(self, name).to(place) for name in names})

    def scaled(self, factor: float) -> Rollout:
        """Return the rollout as it would be with rewards, and values, times a factor."""
        names = ("reward", "value", "final_value", "last_value")
        return replace(self, **{name: getattr(self, name) * factor for name in names})
