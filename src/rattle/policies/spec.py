"""What a policy is, apart from its weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rattle.envs.vector import CodeSpace, ObservationSpace

Activation = Literal["relu", "tanh"]


class Codes(BaseModel):
    """Cell codes (uint8) from 0 to `codes` - 1, one-hot encoded.

    Code 0 (nothing there) is encoded as all zeros. Input (c - 1) * cells + k is 1 where cell k holds code c.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["codes"] = "codes"
    encoding: Literal["one_hot_without_zero"] = "one_hot_without_zero"
    cells: int = Field(ge=1)
    codes: int = Field(ge=2, le=256)

    @property
    def inputs(self) -> int:
        """Return how many numbers the network takes in."""
        return self.cells * (self.codes - 1)

    @property
    def row_size(self) -> int:
        """Return how many numbers one observation has."""
        return self.cells


class Floats(BaseModel):
    """Plain float32 numbers, taken as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["floats"] = "floats"
    encoding: Literal["none"] = "none"
    size: int = Field(ge=1)

    @property
    def inputs(self) -> int:
        """Return how many numbers the network takes in."""
        return self.size

    @property
    def row_size(self) -> int:
        """Return how many numbers one observation has."""
        return self.size


class PolicySpec(BaseModel):
    """A multilayer perceptron with a policy head and, for algorithms that learn a baseline, a value head."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: Literal["mlp"] = "mlp"
    observation: Annotated[Codes | Floats, Field(discriminator="kind")]
    num_actions: int = Field(ge=1)
    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(max_length=16)
    activation: Activation
    value_head: bool

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Return the widths of all layers, from the inputs to the two heads side by side."""
        return (self.observation.inputs, *self.hidden_sizes, self.num_actions + self.value_head)


def observation_input(space: ObservationSpace) -> Codes | Floats:
    """Return how observations of a space enter a network."""
    if isinstance(space, CodeSpace):
        return Codes(cells=space.cells, codes=space.codes)
    return Floats(size=space.size)
