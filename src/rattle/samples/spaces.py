"""Spaces of observations and actions: everything that code elsewhere must know of a kind is a row here.

To add a kind, write its class below and name it in `ObservationSpace` or `ActionSpace`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

if TYPE_CHECKING:
    import gymnasium
    from torch import Tensor

#: Codes are bytes.
MOST_CODES = 256


class Space(BaseModel):
    """What a row of observations or actions is: one slot's at one tick."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype of its arrays."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Return the shape of a row."""

    @property
    @abstractmethod
    def values(self) -> str:
        """Return which values there are, in words, such as "cell codes from 0 to 4"."""

    @abstractmethod
    def find_wrong(self, array: NDArray[Any]) -> tuple[int, ...] | None:
        """Return the index of the first value that is not of this space, None where all are."""

    @abstractmethod
    def draw(self, generator: np.random.Generator, *axes: int) -> NDArray[Any]:
        """Return random rows (*axes, *shape), for tests of what takes them."""

    @abstractmethod
    def to_gymnasium(self) -> gymnasium.Space[Any]:
        """Return a new space of Gymnasium."""

    @property
    def wire_dtype(self) -> np.dtype[Any]:
        """Return the dtype of its arrays in messages and logs, which holds every value in the fewest bytes."""
        return self.dtype

    def zeros(self, *axes: int) -> NDArray[Any]:
        """Return zeros (*axes, *shape)."""
        return np.zeros((*axes, *self.shape), self.dtype)


class Observations(Space):
    """What observation spaces have besides: an encoding, which is what a network takes in."""

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

    def find_wrong(self, array: NDArray[Any]) -> tuple[int, ...] | None:
        """Return the index of the first code that is too large."""
        return _first(array >= self.codes) if array.max(initial=0) >= self.codes else None

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
        return None if finite.all() else _first(~finite)

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


class DiscreteSpace(Space):
    """One whole number from 0 to `n` - 1 (int64); a policy gives a logit for each."""

    kind: Literal["discrete"] = "discrete"
    n: int = Field(ge=1)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return int64."""
        return np.dtype(np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (): a row is one number."""
        return ()

    @property
    def values(self) -> str:
        """Name the numbers."""
        return f"whole numbers from 0 to {self.n - 1}"

    @property
    def wire_dtype(self) -> np.dtype[Any]:
        """Return uint8, or int32 where that does not hold all actions."""
        return np.dtype(np.uint8 if self.n <= MOST_CODES else np.int32)

    @property
    def outputs(self) -> int:
        """Return how many numbers a policy's head gives: the logits."""
        return self.n

    def find_wrong(self, array: NDArray[Any]) -> tuple[int, ...] | None:
        """Return the index of the first number that is no action."""
        if not array.size or (array.min() >= 0 and array.max() < self.n):
            return None
        return _first((array < 0) | (array >= self.n))

    def draw(self, generator: np.random.Generator, *axes: int) -> NDArray[Any]:
        """Return random actions."""
        return generator.integers(0, self.n, axes)

    def distribution(self, outputs: Tensor) -> Distribution:
        """Return the distribution of actions that a head's outputs (N, n) give."""
        return Categorical(outputs)

    def to_gymnasium(self) -> gymnasium.spaces.Discrete:
        """Return a Discrete from 0."""
        from gymnasium.spaces import Discrete

        return Discrete(self.n)


class Distribution(Protocol):
    """The distributions of N actions, one a row."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-probability in nats, (N,), of each action (N, ...)."""

    def entropy(self) -> Tensor:
        """Return the entropy in nats, summed over the N distributions."""


class Categorical:
    """The distributions of N discrete actions, from logits (N, n)."""

    def __init__(self, logits: Tensor) -> None:
        self._log_probs = logits.log_softmax(dim=1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-probability in nats, (N,), of each action (N,)."""
        return self._log_probs.gather(1, action[:, None]).squeeze(1)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, summed over the N distributions."""
        return -(self._log_probs.exp() * self._log_probs).sum()


ObservationSpace = Annotated[CodeSpace | FloatSpace, Field(discriminator="kind")]
ActionSpace = DiscreteSpace

_observation_spaces: TypeAdapter[CodeSpace | FloatSpace] = TypeAdapter(ObservationSpace)


def read_observation_space(described: dict[str, Any]) -> CodeSpace | FloatSpace:
    """Return the space that a message describes; raises ValueError (of pydantic) for one that is none."""
    return _observation_spaces.validate_python(described)


def _first(wrong: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(index) for index in np.argwhere(wrong)[0])
