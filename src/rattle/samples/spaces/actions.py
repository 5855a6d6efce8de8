"""Spaces of actions: a class for each kind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from math import isfinite, prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, field_validator, model_validator

from rattle.samples.spaces.distributions import (
    Categorical,
    Categoricals,
    DiagonalNormal,
    Distribution,
    SquashedNormal,
)
from rattle.samples.spaces.space import MOST_CODES, Space, first_place
from rattle.text import one_line

if TYPE_CHECKING:
    import gymnasium
    from torch import Tensor

#: Numbers of one action.
MOST_NUMBERS = 4096
#: Values of one of several whole numbers: tables hold them as float32.
MOST_CHOICES = 2**24


class Actions(Space):
    """What action spaces have in addition: a distribution, which the numbers that a policy gives describe."""

    #: The part of the outputs that built-in networks learn as numbers of their own, whatever is observed.
    learnt_alone: ClassVar[str | None] = None

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, int]:
        """Return what a policy's outputs consist of, in order: how many numbers each has, by name."""

    @property
    def choices(self) -> tuple[int, ...]:
        """Return how many values each whole number of an action has, which a logit each describes; () of real ones."""
        return ()

    @property
    def outputs(self) -> int:
        """Return how many numbers a policy gives for an action."""
        return sum(self.parts.values())

    @property
    def outputs_alone(self) -> int:
        """Return how many of them, the last ones, built-in networks learn whatever is observed."""
        return 0 if self.learnt_alone is None else self.parts[self.learnt_alone]

    def part(self, name: str, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one of the `parts` of outputs (N, outputs)."""
        first = 0
        for part, size in self.parts.items():
            if part == name:
                break
            first += size
        return outputs[:, first : first + self.parts[name]]

    @abstractmethod
    def distribution(self, outputs: Tensor) -> Distribution:
        """Return the distributions of actions that outputs (N, outputs) describe."""

    def bound(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return actions (..., *shape) as environments take them: what lies beyond their bounds is put there."""
        return rows

    def handed_over(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return drawn actions (..., *shape) as worlds are handed them, which clip them to their bounds."""
        return rows

    def describe(self) -> dict[str, Any]:
        """Return the entry of the space in messages of the vector API."""
        return {"action_space": self.model_dump(mode="json")}


class DiscreteSpace(Actions):
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
        return _small_dtype(self.n)

    @property
    def choices(self) -> tuple[int, ...]:
        """Return (n,)."""
        return (self.n,)

    @property
    def parts(self) -> Mapping[str, int]:
        """Return the logits."""
        return {"logits": self.n}

    def find_wrong(self, array: NDArray[Any]) -> tuple[int, ...] | None:
        """Return the index of the first number that is no action."""
        if not array.size or (array.min() >= 0 and array.max() < self.n):
            return None
        return first_place((array < 0) | (array >= self.n))

    def draw(self, generator: np.random.Generator, *axes: int) -> NDArray[Any]:
        """Return random actions."""
        return generator.integers(0, self.n, axes)

    def distribution(self, outputs: Tensor) -> Distribution:
        """Return the distributions that logits (N, n) describe."""
        return Categorical(outputs)

    def describe(self) -> dict[str, Any]:
        """Return the number of actions, which describes the space."""
        return {"num_actions": self.n}

    def to_gymnasium(self) -> gymnasium.Space[Any]:
        """Return a Discrete from 0."""
        from gymnasium.spaces import Discrete

        return Discrete(self.n)


class MultiDiscreteSpace(Actions):
    """Several whole numbers (int64), number j from 0 to `sizes[j]` - 1.

    A policy gives a logit for each value of each number, one number's after another's, and draws them independently.
    """

    kind: Literal["multi_discrete"] = "multi_discrete"
    sizes: tuple[Annotated[int, Field(ge=1, le=MOST_CHOICES)], ...] = Field(min_length=1, max_length=MOST_NUMBERS)

    @property
    def protocol(self) -> int:
        """Return 2."""
        return 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return int64."""
        return np.dtype(np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (numbers,)."""
        return (len(self.sizes),)

    @property
    def values(self) -> str:
        """Name the numbers."""
        return f"whole numbers from 0 on, below {one_line(list(self.sizes), 80)}"

    @property
    def wire_dtype(self) -> np.dtype[Any]:
        """Return uint8, or int32 where that does not hold all numbers."""
        return _small_dtype(max(self.sizes))

    @property
    def choices(self) -> tuple[int, ...]:
        """Return the sizes."""
        return self.sizes

    @property
    def parts(self) -> Mapping[str, int]:
        """Return the logits of all numbers."""
        return {"logits": sum(self.sizes)}

    def find_wrong(self, array: NDArray[Any]) -> tuple[int, ...] | None:
        """Return the index of the first number that is negative, or not below its size."""
        wrong = (array < 0) | (array >= np.array(self.sizes))
        return first_place(wrong) if wrong.any() else None

    def draw(self, generator: np.random.Generator, *axes: int) -> NDArray[Any]:
        """Return random actions."""
        return generator.integers(0, self.sizes, (*axes, len(self.sizes)))

    def distribution(self, outputs: Tensor) -> Distribution:
        """Return the distributions that logits (N, outputs) describe."""
        return Categoricals(outputs, self.sizes)

    def to_gymnasium(self) -> gymnasium.Space[Any]:
        """Return a MultiDiscrete from 0."""
        from gymnasium.spaces import MultiDiscrete

        space: gymnasium.Space[Any] = MultiDiscrete(list(self.sizes))
        return space


class BoxSpace(Actions):
    """Real numbers (float32) in an array whose shape is that of `low` and `high`; None: no bound.

    A policy gives a mean and the logarithm of a standard deviation for each number, and draws from normal
    distributions. What is drawn may lie beyond the bounds: environments take the bounds for it, and learners learn from
    what was drawn.
    """

    kind: Literal["box"] = "box"
    low: Any  # a number or None, or such in nested tuples
    high: Any
    learnt_alone: ClassVar[str | None] = "log_std"

    @classmethod
    def of(cls, low: NDArray[Any], high: NDArray[Any]) -> Self:
        """Return the space with bounds from arrays, which may be infinite."""
        return cls(low=low.tolist(), high=high.tolist())

    @field_validator("low", "high")
    @classmethod
    def _are_bounds(cls, bounds: Any) -> Any:
        try:
            array = np.array(bounds, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise ValueError("a number or null, or lists of such, all of one length, are wanted") from None
        if not 1 <= array.size <= MOST_NUMBERS or array.ndim > 8:
            raise ValueError(f"an action has 1 to {MOST_NUMBERS} numbers")
        return _as_tuples(array.tolist())

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if np.shape(self.low) != np.shape(self.high):
            raise ValueError(f"low {np.shape(self.low)} and high {np.shape(self.high)} have different shapes")
        low, high = self.bounds
        if (low > high).any():
            raise ValueError("low is above high")
        return self

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the least and the largest numbers, (*shape): infinite where there is no bound."""
        return _bounds(self.low, self.high)

    @property
    def middles_and_halves(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the middle between the bounds of each number, and half of their width, (*shape); 0 without two."""
        return _middles_and_halves(self.low, self.high)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return float32."""
        return np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the bounds."""
        return np.shape(self.low)

    @property
    def values(self) -> str:
        """Say what numbers may be, and how many there are."""
        return f"finite numbers of shape {self.shape}"

    @property
    def parts(self) -> Mapping[str, int]:
        """Return means and logarithms of standard deviations."""
        size = prod(self.shape)
        return {"mean": size, "log_std": size}

    def find_wrong(self, array: NDArray[Any]) -> tuple[int, ...] | None:
        """Return the index of the first number that is not finite."""
        finite = np.isfinite(array)
        return None if finite.all() else first_place(~finite)

    def draw(self, generator: np.random.Generator, *axes: int) -> NDArray[Any]:
        """Return numbers of a normal distribution, put into the bounds."""
        return self.bound(generator.normal(size=(*axes, *self.shape)).astype(np.float32))

    def distribution(self, outputs: Tensor) -> Distribution:
        """Return the distributions that means and logarithms of standard deviations, (N, 2 * size), describe."""
        return DiagonalNormal(outputs)

    def bound(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the bounds for numbers beyond them, and the numbers else."""
        bounded: NDArray[Any] = np.clip(rows, *self.bounds)
        return bounded

    def to_gymnasium(self) -> gymnasium.Space[Any]:
        """Return a Box float32."""
        from gymnasium.spaces import Box

        low, high = self.bounds
        return Box(low, high, dtype=np.float32)


class SquashedBoxSpace(BoxSpace):
    """Real numbers of a `BoxSpace` that a policy reaches by a hyperbolic tangent instead of being clipped.

    What is drawn is u, of normal distributions. A number with two bounds becomes low + (high - low) * (1 + tanh u) / 2;
    others stay u, and are clipped. Log-probabilities are those of the resulting numbers. Only policies have this
    space: environments declare a `BoxSpace`, and are handed its numbers.
    """

    kind: Literal["squashed_box"] = "squashed_box"  # type: ignore[assignment]

    @classmethod
    def over(cls, space: BoxSpace) -> Self:
        """Return the space that squashes into the bounds of another."""
        return cls(low=space.low, high=space.high)

    @property
    def half_widths(self) -> NDArray[np.float32]:
        """Return half of what lies between the bounds of each number, (*shape); 0 for numbers that stay as drawn."""
        return self.middles_and_halves[1]

    def distribution(self, outputs: Tensor) -> Distribution:
        """Return the distributions of squashed numbers, as functions of what was drawn."""
        return SquashedNormal(outputs, self.half_widths.ravel().tolist())

    def bound(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the squashed numbers of those that were drawn."""
        middle, half = self.middles_and_halves
        squashed = np.where(half > 0, middle + half * np.tanh(rows, dtype=np.float64), rows)
        bounded: NDArray[Any] = np.clip(squashed, *self.bounds).astype(np.float32)
        return bounded

    def handed_over(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the squashed numbers, which lie within the bounds of worlds."""
        return self.bound(rows)


AnyActions = DiscreteSpace | MultiDiscreteSpace | BoxSpace | SquashedBoxSpace
ActionSpace = Annotated[AnyActions, Field(discriminator="kind")]

#: The spaces that environments declare.
_action_spaces: TypeAdapter[DiscreteSpace | MultiDiscreteSpace | BoxSpace] = TypeAdapter(
    Annotated[DiscreteSpace | MultiDiscreteSpace | BoxSpace, Field(discriminator="kind")]
)


def read_action_space(described: Mapping[str, Any]) -> AnyActions:
    """Return an environment's space that `Actions.describe` described; raises ValueError (of pydantic) for others."""
    if "action_space" in described:
        return _action_spaces.validate_python(described["action_space"])
    return DiscreteSpace(n=described["num_actions"])


def _small_dtype(choices: int) -> np.dtype[Any]:
    """Return the dtype that holds numbers below `choices` in messages."""
    return np.dtype(np.uint8 if choices <= MOST_CODES else np.int32)


@lru_cache(maxsize=64)
def _bounds(low: Any, high: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with np.errstate(over="ignore"):  # larger numbers than float32 has bound nothing
        least, most = np.array(low, np.float64).astype(np.float32), np.array(high, np.float64).astype(np.float32)
    least, most = np.where(np.isfinite(least), least, -np.inf), np.where(np.isfinite(most), most, np.inf)
    return least.astype(np.float32), most.astype(np.float32)


@lru_cache(maxsize=64)
def _middles_and_halves(low: Any, high: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the middle and half of the width between two bounds, (*shape); zeros for numbers without two bounds."""
    least, most = _bounds(low, high)
    with np.errstate(invalid="ignore"):  # of infinite bounds, which are left out
        half, middle = most / np.float32(2) - least / np.float32(2), most / np.float32(2) + least / np.float32(2)
    has_two = np.isfinite(half) & (half > 0)
    return np.where(has_two, middle, np.float32(0)), np.where(has_two, half, np.float32(0))


def _as_tuples(bounds: Any) -> Any:
    """Return nested lists of numbers as tuples, with None for those that are not finite."""
    if isinstance(bounds, list):
        return tuple(_as_tuples(part) for part in bounds)
    return bounds if isfinite(bounds) else None
