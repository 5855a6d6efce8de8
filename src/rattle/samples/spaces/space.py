"""What every space has: a dtype, a shape, values that it holds, and what Gymnasium calls it."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import gymnasium

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

    @property
    def protocol(self) -> int:
        """Return the first version of the vector protocol whose clients know the space: kinds that came later say."""
        return 1

    def zeros(self, *axes: int) -> NDArray[Any]:
        """Return zeros (*axes, *shape)."""
        return np.zeros((*axes, *self.shape), self.dtype)


def first_place(wrong: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the index of the first true value; there must be one."""
    return tuple(int(index) for index in np.argwhere(wrong)[0])
