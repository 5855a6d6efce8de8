"""Spaces of observations: a class for each kind."""

from __future__ import annotations

from abc import abstractmethod
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from rattle.samples.spaces.space import MOST_CODES, Space, first_place

if TYPE_CHECKING:
    import gymnasium
    from torch import Tensor

#: Codes of one cell of an observation.
MOST_STATES = 2**16
#: Numbers of one observation.
MOST_OBSERVED = 2**24
#: Codes that are compared one after another, which is quicker for few; more are compared in one operation.
_FEW_CODES = 8


class Observations(Space):
    """What observation spaces have in addition: an encoding, which is what a network takes in."""

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

    def allow(self, rows: NDArray[Any], action: NDArray[Any], choices: tuple[int, ...]) -> NDArray[Any]:
        """Return actions (N, ...), with others in place of those that observations (N, *shape) forbid.

        choices: how many there are, of each of an action's numbers.
        """
        return action

    def describe(self) -> dict[str, Any]:
        """Return the space as it is in messages of the vector API."""
        nested = {"parts": {"__all__": {"space": {"encoding"}}}}
        return self.model_dump(mode="json", exclude={"encoding": True, **nested})


class CodeSpace(Observations):
    """Cell codes from 0 to `codes` - 1 (uint8, and int32 where there are more than 256), one-hot encoded.

    Code 0 (nothing there) is encoded as all zeros. Input (c - 1) * cells + k is 1 where cell k holds code c.
    """

    kind: Literal["codes"] = "codes"
    encoding: Literal["one_hot_without_zero"] = "one_hot_without_zero"
    cells: int = Field(ge=1)
    codes: int = Field(ge=2, le=MOST_STATES)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return uint8, or int32 where that does not hold all codes."""
        return np.dtype(np.uint8 if self.codes <= MOST_CODES else np.int32)

    @property
    def protocol(self) -> int:
        """Return 1, or 2 for more codes than bytes hold."""
        return 1 if self.codes <= MOST_CODES else 2

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
        """Return the index of the first number that is no code."""
        if not array.size or (array.dtype == np.uint8 and array.max() < self.codes):
            return None
        wrong = (array < 0) | (array >= self.codes) | (array != np.floor(array))
        return first_place(wrong) if wrong.any() else None

    def draw(self, generator: np.random.Generator, *axes: int) -> NDArray[Any]:
        """Return random codes."""
        return generator.integers(0, self.codes, (*axes, self.cells)).astype(self.dtype)

    def encode(self, rows: Tensor) -> Tensor:
        """Return which cells hold which code."""
        import torch

        if self.codes <= _FEW_CODES:
            return torch.cat([rows == code for code in range(1, self.codes)], dim=1).float()
        codes = torch.arange(1, self.codes, device=rows.device, dtype=torch.int32)
        return (rows.int().unsqueeze(1) == codes[None, :, None]).flatten(1).float()

    def to_gymnasium(self) -> gymnasium.Space[Any]:
        """Return a Box (cells,) of its dtype."""
        from gymnasium.spaces import Box

        return Box(0, self.codes - 1, self.shape, self.dtype.type)


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


class ArraySpace(Observations):
    """An array of bytes, such as an image, or of float32 numbers, with axes of fixed `sizes`.

    Bytes are divided by 255 for a network; numbers are taken as they are.
    """

    kind: Literal["array"] = "array"
    encoding: Literal["bytes_by_255"] = "bytes_by_255"
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1, max_length=8)
    element: Literal["uint8", "float32"] = "uint8"

    @field_validator("sizes")
    @classmethod
    def _has_bounds(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if prod(sizes) > MOST_OBSERVED:
            raise ValueError(f"an observation has at most {MOST_OBSERVED} numbers")
        return sizes

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return uint8 or float32."""
        return np.dtype(self.element)

    @property
    def protocol(self) -> int:
        """Return 2."""
        return 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the sizes."""
        return self.sizes

    @property
    def is_image(self) -> bool:
        """Whether it has height, width and perhaps channels, as a convolution wants them."""
        return len(self.sizes) == 3 or (len(self.sizes) == 2 and self.element == "uint8")

    @property
    def learnt_by(self) -> str:
        """Return "image" or "array"."""
        return "image" if self.is_image else "array"

    @property
    def values(self) -> str:
        """Say what it may hold."""
        return f"{'bytes' if self.element == 'uint8' else 'finite numbers'} of shape {self.shape}"

    @property
    def inputs(self) -> int:
        """Return how many numbers the network takes in."""
        return prod(self.sizes)

    def find_wrong(self, array: NDArray[Any]) -> tuple[int, ...] | None:
        """Return the index of the first number that is not finite, or no byte."""
        if array.dtype == np.uint8:
            return None
        right = np.isfinite(array)
        if self.element == "uint8":
            right &= (array >= 0) & (array <= 255) & (array == np.floor(array))
        return None if right.all() else first_place(~right)

    def draw(self, generator: np.random.Generator, *axes: int) -> NDArray[Any]:
        """Return random bytes, or numbers of a normal distribution."""
        shape = (*axes, *self.sizes)
        if self.element == "uint8":
            return generator.integers(0, 256, shape, np.uint8)
        return generator.normal(size=shape).astype(np.float32)

    def encode(self, rows: Tensor) -> Tensor:
        """Return the numbers, flat; bytes as parts of 255."""
        return self.scaled(rows).flatten(1)

    def scaled(self, rows: Tensor) -> Tensor:
        """Return float32 of the shape of `rows`: bytes as parts of 255, numbers as they are."""
        return rows.float() / 255.0 if self.element == "uint8" else rows

    def to_gymnasium(self) -> gymnasium.Space[Any]:
        """Return a Box of its shape and dtype."""
        from gymnasium.spaces import Box

        if self.element == "uint8":
            return Box(0, 255, self.shape, np.uint8)
        return Box(-np.inf, np.inf, self.shape, np.float32)
