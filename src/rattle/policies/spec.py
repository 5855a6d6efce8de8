"""What a policy is, apart from its weights."""

from __future__ import annotations

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from rattle.policies.own.inputs import OwnLayout, own_layout
from rattle.samples.spaces import ActionSpace, DiscreteSpace, ObservationSpace


class PolicySpec(BaseModel):
    """What all policies have; a kind of network has a subclass with what it needs in addition."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: str
    observation: ObservationSpace
    action: ActionSpace
    value_head: bool

    @property
    def own(self) -> OwnLayout:
        """Return what it sees of its own past; it comes first in what a slot remembers."""
        return own_layout((), self.action)

    @property
    def network_memory(self) -> int:
        """Return how many numbers the network itself remembers from one tick to the next; 0 without memory."""
        return 0

    @property
    def memory_size(self) -> int:
        """Return how many numbers a slot remembers from one tick to the next; 0 without memory."""
        return self.own.size + self.network_memory

    @model_serializer(mode="wrap")
    def _write(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write discrete actions as their number, and the order of fields, as policy files have always had them."""
        values: dict[str, Any] = serialise(self)
        if "action" in values and isinstance(self.action, DiscreteSpace):
            values = {("num_actions" if name == "action" else name): value for name, value in values.items()}
            values["num_actions"] = self.action.n
        if "value_head" in values:
            values["value_head"] = values.pop("value_head")
        if not values.get("inputs", True):
            del values["inputs"]
        return values

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        if isinstance(values, dict) and "num_actions" in values:
            others = {name: value for name, value in values.items() if name != "num_actions"}
            return {**others, "action": {"kind": "discrete", "n": values["num_actions"]}}
        return values
