"""What a policy is, apart from its weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from rattle.samples.spaces import ActionSpace, ObservationSpace

Activation = Literal["relu", "tanh"]


class PolicySpec(BaseModel):
    """A multilayer perceptron with a policy head and, for algorithms that learn a baseline, a value head."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: Literal["mlp"] = "mlp"
    observation: ObservationSpace
    action: ActionSpace
    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(max_length=16)
    activation: Activation
    value_head: bool

    @model_serializer(mode="wrap")
    def _write(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write discrete actions as their number, as policy files have always done."""
        values: dict[str, Any] = serialise(self)
        return {("num_actions" if name == "action" else name): value for name, value in values.items()} | {
            "num_actions": self.action.n
        }

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        if isinstance(values, dict) and "num_actions" in values:
            others = {name: value for name, value in values.items() if name != "num_actions"}
            return {**others, "action": {"n": values["num_actions"]}}
        return values

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Return the widths of all layers, from the inputs to the two heads side by side."""
        return (self.observation.inputs, *self.hidden_sizes, self.action.outputs + self.value_head)
