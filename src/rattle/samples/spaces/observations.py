"""Spaces of observations: a class for each kind."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from rattle.samples.spaces.space import MOST_CODES, Space, first_place

if TYPE_CHECKING:
    import gymnasium
    from torch import Tensor


class Observations(Space):
    """What observation spaces have besides: an encoding, which is what a network takes in."""

    #: Whether the inputs are numbers of any size, which learn better when they are scaled.
    scalable: ClassVar[bool] = False

    @property
    def learnt_by(self) -> str:
        """Return which defaults learn from it best: a key of the tables of `rattle.settings.defaults`."""
        return self.kind

    @property
    @abstractmethod
    def inputs(self) -> int:
        """Return how many numbers the network takes in."""

    @abstractmethod
    def encode(self, rows: Tensor) -> Tensor:
        """Return the float32 inputs (N, inputs) of observations (N, *shape)."""

    def describe(self) -> dict[str, Any]:
        """Return the space as it stands in messages of the vector API."""
        return self.model_dump(exclude={"encoding"})


class CodeSpace(Observations):
    """Cell codes (uint8) from 0 to `codes` - 1, one-hot encoded.

    Code 0 (nothing there) is encoded as all zeros. Input (c - 1) * cells + k is 1 where cell k holds code c.
    """

    kind: Literal["codes"] = "codes"
    encoding: Literal["one_hot_without_zero"] = "one_hot_without_zero"
    cells: int = Field(ge=1)
    codes: int = Field(ge=2, le=MOST_CODES)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return uint8."""
        return np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (cells,)."""
        return (self.cells,)

    @property
    def values(self) -> str:
        """Name the codes."""
        return f"cell codes from 0 to {self.codes - 1}"

    @property
    def inputs(self) -> int:
        """Return how many numbers the network takes in."""
        return self.cells * (self.codes - 1)

    @property
    def learnt_by(self) -> str:
        """Return "codes", or "code" for a single one: most such worlds are Gymnasium's, few at a time and slow."""
        return "code" if self.cells == 1 else "codes"

    def find_wrong(self, array: NDArray[Any]) -> tuple[int, ...] | None:
        """Return the index of the first code that is too large."""
        return first_place(array >= self.codes) if array.max(initial=0) >= self.codes else None

    def draw(self, generator: np.random.Generator, *axes: int) -> NDArray[Any]:
        """Return random codes."""
        return generator.integers(0, self.codes, (*axes, self.cells)).astype(np.uint8)

    def encode(self, rows: Tensor) -> Tensor:
        """Return which cells hold which code."""
        import torch

        return torch.cat([rows == code for code in range(1, self.codes)], dim=1).float()

    def to_gymnasium(self) -> gymnasium.Space[Any]:
        """Return a Box uint8 (cells,)."""
        from gymnasium.spaces import Box

        return Box(0, self.codes - 1, self.shape, np.uint8)


class FloatSpace(Observations):
    """Plain float32 numbers, taken as they are."""

    kind: Literal["floats"] = "floats"
    encoding: Literal["none"] = "none"
    size: int = Field(ge=1)
    scalable: ClassVar[bool] = True

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return float32."""
        return np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (size,)."""
        return (self.size,)

    @property
    def values(self) -> str:
        """Say what floats may be."""
        return "finite numbers"

    @property
    def inputs(self) -> int:
        """Return how many numbers the network takes in."""
        return self.size

    def find_wrong(self, array: NDArray[Any]) -> tuple[int, ...] | None:
        """Return the index of the first number that is not finite."""
        finite = np.isfinite(array)
        return None if finite.all() else first_place(~finite)

    def draw(self, generator: np.random.Generator, *axes: int) -> NDArray[Any]:
        """Return numbers of a normal distribution."""
        return generator.normal(size=(*axes, self.size)).astype(np.float32)

    def encode(self, rows: Tensor) -> Tensor:
        """Return the numbers themselves."""
        return rows

    def to_gymnasium(self) -> gymnasium.Space[Any]:
        """Return an unbounded Box float32 (size,)."""
        from gymnasium.spaces import Box

        return Box(-np.inf, np.inf, self.shape, np.float32)


ObservationSpace = Annotated[CodeSpace | FloatSpace, Field(discriminator="kind")]

_observation_spaces: TypeAdapter[CodeSpace | FloatSpace] = TypeAdapter(ObservationSpace)


def read_observation_space(described: dict[str, Any]) -> CodeSpace | FloatSpace:
    """Return the space that a message describes; raises ValueError (of pydantic) for one that is none."""
    return _observation_spaces.validate_python(described)
