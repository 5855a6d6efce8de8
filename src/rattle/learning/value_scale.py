"""The size of returns, in units of which a learner learns: rewards of any size then teach alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import frexp, isfinite, ldexp
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rattle.learning.returns import generalised_advantages
from rattle.samples.rollout import Rollout

if TYPE_CHECKING:
    from torch import Tensor

#: What the newest rollout adds to the running mean.
RATE = 0.05
#: The largest and smallest scale are 2 to this power, up and down: weights times it stay numbers that float32 has.
MOST_DOUBLINGS = 96


@dataclass(frozen=True)
class ValueScale:
    """The running mean square of returns, in rewards squared; a newer rollout counts more than an older one."""

    square: float = 0.0
    weight: float = 0.0  # of all rollouts seen: `square` begins at 0, and is divided by this

    @property
    def factor(self) -> float:
        """Return the power of two next to the returns' root mean square, 1 before there was any return.

        A power of two changes no digits: a value head can be rescaled by it, and back, without loss.
        """
        size = (self.square / self.weight) ** 0.5 if self.weight else 0.0
        if size == 0.0:
            return 1.0
        mantissa, exponent = frexp(size)  # from 0.5 up to, but not, 1
        nearest = exponent - (mantissa < 0.5**0.5)
        return ldexp(1.0, max(-MOST_DOUBLINGS, min(MOST_DOUBLINGS, nearest)))

    def after(self, rollout: Rollout[Tensor], discount: float) -> ValueScale:
        """Return the scale that follows from one more rollout; the same where its returns are no finite numbers."""
        returns = generalised_advantages(rollout, discount, 1.0) + rollout.value
        square = float(_mean_square(returns[rollout.active]))
        if not isfinite(square):
            return self  # the update will fail, and say why
        return ValueScale(*((1 - RATE) * old + RATE * new for old, new in ((self.square, square), (self.weight, 1.0))))

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Return its numbers by name."""
        return {name: np.array(getattr(self, name)) for name in _NAMES}

    @classmethod
    def of(cls, state: Mapping[str, NDArray[Any]]) -> ValueScale:
        """Return what `state` described; that of nothing seen yet where it holds none."""
        return cls(**{name: float(state[name]) for name in _NAMES if name in state})


_NAMES = tuple(field.name for field in fields(ValueScale))


def _mean_square(returns: Tensor) -> Tensor:
    """Return the mean square in 64 bits, which hold the square of any float32; not a number without any returns."""
    return returns.double().square().mean()
