"""Observations of several parts, and the masks that say which actions are allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import accumulate, pairwise
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from rattle.samples.spaces.observations import (
    MOST_OBSERVED,
    MOST_STATES,
    ArraySpace,
    CodeSpace,
    FloatSpace,
    Observations,
)
from rattle.samples.spaces.space import first_place

if TYPE_CHECKING:
    import gymnasium
    from torch import Tensor

#: The dtypes of rows, each of which holds the values of those before it.
_ROWS = tuple(map(np.dtype, (np.uint8, np.int32, np.float32)))


class MaskSpace(Observations):
    """Which discrete actions an agent may take (uint8): 1 where it may. A network does not see it: it obeys it.

    A mask is a part of `PartsSpace`; a row of zeros, such as that of an agent which is not active, allows everything.
    """

    kind: Literal["mask"] = "mask"
    encoding: Literal["none"] = "none"
    size: int = Field(ge=1, le=MOST_STATES)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return uint8."""
        return np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (size,)."""
        return (self.size,)

    @property
    def values(self) -> str:
        """Say what a mask holds."""
        return "zeros and ones"

    @property
    def inputs(self) -> int:
        """Return 0: it is no input."""
        return 0

    def find_wrong(self, array: NDArray[Any]) -> tuple[int, ...] | None:
        """Return the index of the first number that is neither 0 nor 1."""
        wrong = (array != 0) & (array != 1)
        return first_place(wrong) if wrong.any() else None

    def draw(self, generator: np.random.Generator, *axes: int) -> NDArray[Any]:
        """Return random masks that allow some action."""
        mask = generator.integers(0, 2, (*axes, self.size)).astype(np.uint8)
        mask[..., 0] |= ~mask.any(axis=-1)
        return mask

    def encode(self, rows: Tensor) -> Tensor:
        """Return (N, 0)."""
        return rows[:, :0].float()

    def to_gymnasium(self) -> gymnasium.Space[Any]:
        """Return a Box of zeros and ones."""
        from gymnasium.spaces import Box

        return Box(0, 1, self.shape, np.uint8)


class Part(BaseModel):
    """A named part of an observation; names of parts of parts are joined by dots."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=200)
    space: Annotated[CodeSpace | FloatSpace | ArraySpace | MaskSpace, Field(discriminator="kind")]


class PartsSpace(Observations):
    """Several observations at once, such as an image and a vector: rows hold the parts one after another, flat.

    The rows' dtype is the first of uint8, int32 and float32 that holds the values of all parts.
    """

    kind: Literal["parts"] = "parts"
    encoding: Literal["one_after_another"] = "one_after_another"
    parts: tuple[Part, ...] = Field(min_length=1, max_length=1024)

    @field_validator("parts")
    @classmethod
    def _fit(cls, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        if len({part.name for part in parts}) < len(parts):
            raise ValueError("two parts have one name")
        if sum(prod(part.space.shape) for part in parts) > MOST_OBSERVED:
            raise ValueError(f"an observation has at most {MOST_OBSERVED} numbers")
        if sum(isinstance(part.space, MaskSpace) for part in parts) > 1:
            raise ValueError("an observation may have only one mask: combine them")
        if all(isinstance(part.space, MaskSpace) for part in parts):
            raise ValueError("an observation has only a mask: add a part that shows what the agent sees")
        return parts

    @cached_property
    def columns(self) -> Mapping[str, slice]:
        """Return which columns of a row each part has, by its name."""
        ends = accumulate((prod(part.space.shape) for part in self.parts), initial=0)
        return {part.name: slice(*both) for part, both in zip(self.parts, pairwise(ends), strict=True)}

    @property
    def mask(self) -> Part | None:
        """Return the part that says which actions may be taken, None without one."""
        return next((part for part in self.parts if isinstance(part.space, MaskSpace)), None)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype that holds the values of all parts."""
        return _ROWS[max(_ROWS.index(part.space.dtype) for part in self.parts)]

    @property
    def protocol(self) -> int:
        """Return 2."""
        return 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (numbers of all parts,)."""
        return (sum(prod(part.space.shape) for part in self.parts),)

    @property
    def values(self) -> str:
        """Say what each part holds."""
        return ", ".join(f"{part.name}: {part.space.values}" for part in self.parts)

    @property
    def inputs(self) -> int:
        """Return how many numbers a network takes in at most."""
        return sum(part.space.inputs for part in self.parts)

    def find_wrong(self, array: NDArray[Any]) -> tuple[int, ...] | None:
        """Return the index of the first value in the first part with a wrong one."""
        for part in self.parts:
            columns = self.columns[part.name]
            if (place := part.space.find_wrong(array[..., columns])) is not None:
                return (*place[:-1], columns.start + place[-1])
        return None

    def draw(self, generator: np.random.Generator, *axes: int) -> NDArray[Any]:
        """Return random rows of all parts."""
        drawn = [part.space.draw(generator, *axes).reshape(*axes, -1) for part in self.parts]
        return np.concatenate(drawn, axis=-1).astype(self.dtype)

    def split(self, rows: Tensor) -> Iterator[tuple[Part, Tensor]]:
        """Yield the parts of rows (N, numbers), but not the mask: each (N, ...) in the shape and dtype of its space."""
        import torch

        for part in self.parts:
            if not isinstance(part.space, MaskSpace):
                own = rows[:, self.columns[part.name]].reshape(-1, *part.space.shape)
                yield part, own.to(getattr(torch, part.space.dtype.name))

    def forbidden(self, rows: Tensor) -> Tensor:
        """Return bool (N, actions): the actions that the mask of each row forbids; none in a row of zeros."""
        assert self.mask is not None  # noqa: S101 - anyone who asks has looked
        mask = rows[:, self.columns[self.mask.name]]
        return (mask == 0) & (mask != 0).any(dim=1, keepdim=True)

    def allow(self, rows: NDArray[Any], action: NDArray[Any], choices: tuple[int, ...]) -> NDArray[Any]:
        """Return actions (N, ...), with allowed ones in place of those that a mask forbids.

        Number a becomes that which stands at place a modulo their count among the allowed ones.
        """
        if self.mask is None or sum(choices) != self.mask.space.shape[0]:
            return action
        mask = rows[:, self.columns[self.mask.name]] != 0
        allowed = action.copy()
        numbers = allowed.reshape(len(rows), len(choices))  # of the same memory
        for number, own in enumerate(np.split(mask, np.cumsum(choices)[:-1], axis=1)):
            every, taken = np.arange(len(own)), numbers[:, number]
            forbidden = ~own[every, taken] & own.any(axis=1)
            order = np.argsort(~own, axis=1, kind="stable")  # allowed ones first
            numbers[:, number] = np.where(forbidden, order[every, taken % np.maximum(own.sum(axis=1), 1)], taken)
        return allowed

    def encode(self, rows: Tensor) -> Tensor:
        """Return the encodings of all parts, one after another."""
        import torch

        return torch.cat([part.space.encode(own) for part, own in self.split(rows)], dim=1)

    def to_gymnasium(self) -> gymnasium.Space[Any]:
        """Return a Box of flat rows."""
        from gymnasium.spaces import Box

        low, high = (-np.inf, np.inf) if self.dtype.kind == "f" else (0, np.iinfo(self.dtype).max)
        return Box(low, high, self.shape, self.dtype.type)


AnyObservations = CodeSpace | FloatSpace | ArraySpace | PartsSpace
ObservationSpace = Annotated[AnyObservations, Field(discriminator="kind")]

_observation_spaces: TypeAdapter[AnyObservations] = TypeAdapter(ObservationSpace)


def read_observation_space(described: dict[str, Any]) -> AnyObservations:
    """Return the space that a message describes; raises ValueError (of pydantic) for anything else."""
    return _observation_spaces.validate_python(described)
