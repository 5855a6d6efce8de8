"""Running moments of what a network takes in, and weights that take it shifted and scaled by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from rattle.samples.rollout import Rollout

if TYPE_CHECKING:
    from torch import Tensor

Numbers = NDArray[np.float64]

#: What the newest rollout adds to the running moments.
RATE = 0.05
#: No input of a rollout is further from the mean than this, in scaled units.
FURTHEST = 10.0
#: An input that varies by less than this part of its size is rounding, and is not blown up.
LEAST_DEVIATION = 1e-5


@dataclass(frozen=True)
class InputScale:
    """Running moments of each input, (inputs,); a newer rollout counts more than an older one."""

    mean: Numbers
    square: Numbers
    furthest: Numbers  # from the mean, lately
    weight: Numbers  # (): of all rollouts seen; the moments begin at 0, and are divided by this

    @classmethod
    def of_nothing(cls, inputs: int) -> Self:
        """Return the moments before anything was seen: inputs are taken as they are."""
        return cls(np.zeros(inputs), np.zeros(inputs), np.zeros(inputs), np.zeros(()))

    @property
    def shift(self) -> Numbers:
        """Return what is taken off an input."""
        return self.mean / self.weight if self.weight else self.mean

    @property
    def size(self) -> Numbers:
        """Return what an input is divided by then: its deviation, or more where it goes far."""
        if not self.weight:
            return np.ones_like(self.mean)
        square = self.square / self.weight
        deviation = np.sqrt(np.maximum(square - self.shift**2, 0.0))
        size = np.maximum(np.maximum(deviation, self.furthest / FURTHEST), LEAST_DEVIATION * np.sqrt(square))
        return np.where(size > 0.0, size, 1.0)

    def after(self, rollout: Rollout[Tensor]) -> InputScale:
        """Return the moments that follow from one more rollout; the same where its inputs are no finite numbers."""
        seen = rollout.observation[rollout.active].double()
        mean, square = (_mean(part) for part in (seen, seen.square()))
        if not np.isfinite(square).all():
            return self  # the update will fail, and say why
        left = 1 - RATE
        weight = left * self.weight + RATE
        new_mean = left * self.mean + RATE * mean
        furthest = np.maximum(left * self.furthest, _furthest(seen, new_mean / weight))
        return InputScale(new_mean, left * self.square + RATE * square, furthest, np.asarray(weight))

    def apply(self, observation: Tensor) -> Tensor:
        """Return observations (..., inputs) shifted and scaled, float32."""
        shift, size = (observation.new_tensor(part) for part in (self.shift, self.size))
        return (observation - shift) / size

    def state(self) -> dict[str, Numbers]:
        """Return its numbers by name."""
        return {field.name: getattr(self, field.name).copy() for field in fields(self)}

    @classmethod
    def of(cls, state: Mapping[str, NDArray[Any]], inputs: int) -> Self:
        """Return what `state` described; that of nothing seen yet where it holds none."""
        known: dict[str, NDArray[Any]] = {**cls.of_nothing(inputs).state(), **state}
        return cls(**{field.name: np.array(known[field.name], float) for field in fields(cls)})


def converted(
    weight: NDArray[Any], bias: NDArray[Any], old: InputScale, new: InputScale
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a layer, weights (outputs, inputs) and biases, that gives in new units what it gave in old ones."""
    raw = weight.astype(float) / old.size
    moved = bias + raw @ (new.shift - old.shift)
    return (raw * new.size).astype(np.float32), moved.astype(np.float32)


def _mean(rows: Tensor) -> Numbers:
    return np.asarray(rows.mean(dim=0).cpu().numpy())


def _furthest(rows: Tensor, mean: Numbers) -> Numbers:
    return np.asarray((rows - rows.new_tensor(mean)).abs().amax(dim=0).cpu().numpy())
