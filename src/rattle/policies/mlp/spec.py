"""What a multilayer perceptron is, apart from its weights."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rattle.policies.own.inputs import OwnInputs, OwnLayout, own_layout, refusal
from rattle.policies.spec import PolicySpec

Activation = Literal["relu", "tanh"]


class LayeredSpec(PolicySpec):
    """Hidden layers, then a policy head and, for algorithms that learn a baseline, a value head."""

    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(max_length=16)
    activation: Activation
    inputs: OwnInputs = ()

    @model_validator(mode="after")
    def _can_have_inputs(self) -> Self:
        if (said := refusal(self.inputs, self.action)) is not None:
            raise ValueError(f"inputs: {said}")
        return self

    @property
    def own(self) -> OwnLayout:
        """Return what it sees of its own past."""
        return own_layout(self.inputs, self.action)

    @property
    def alone(self) -> str | None:
        """Return the name of the parameter that gives the outputs which depend on nothing that is observed."""
        part = self.action.learnt_alone
        return None if part is None else f"policy.{part}"

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Return the widths of all layers, from the inputs to the two heads side by side."""
        return (self.first_inputs, *self.hidden_sizes, self.action.outputs + self.value_head)

    @property
    def first_inputs(self) -> int:
        """Return how many inputs the first layer takes: those of an observation, then those of the own past."""
        return self.observation.inputs + self.own.width


class MlpSpec(LayeredSpec):
    """A multilayer perceptron: the heads take what the last hidden layer gives."""

    network: Literal["mlp"] = "mlp"
