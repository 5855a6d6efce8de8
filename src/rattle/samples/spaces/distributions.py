"""Distributions of actions, as what a policy gives describes them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby
from math import log, pi
from typing import TYPE_CHECKING, Protocol

from numpy.polynomial.hermite_e import hermegauss

if TYPE_CHECKING:
    from torch import Tensor


class Distribution(Protocol):
    """The distributions of N actions, one a row."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-probability (or its density) in nats, (N,), of each action (N, ...)."""

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


class Categoricals:
    """The distributions of N actions of several discrete numbers, which are independent.

    Logits (N, sum of sizes) hold those of one number after another's.
    """

    def __init__(self, logits: Tensor, sizes: Sequence[int]) -> None:
        runs = [(size, len(list(same))) for size, same in groupby(sizes)]  # neighbours of one size are one array's rows
        self._ends = list(accumulate(count for _, count in runs))[:-1]
        blocks = logits.tensor_split(list(accumulate(size * count for size, count in runs))[:-1], dim=1)
        self._blocks = [Categorical(block.reshape(-1, size)) for block, (size, _) in zip(blocks, runs, strict=True)]

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-probability in nats, (N,), of each action (N, numbers)."""
        import torch

        parts = zip(self._blocks, action.tensor_split(self._ends, dim=1), strict=True)
        return torch.cat([own.log_prob(part.reshape(-1)).reshape(part.shape) for own, part in parts], dim=1).sum(dim=1)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, summed over the N distributions."""
        import torch

        return torch.stack([block.entropy() for block in self._blocks]).sum()


class DiagonalNormal:
    """Normal distributions of N actions whose numbers are independent, from (N, 2 * size).

    The first half are means, the second half logarithms of standard deviations.
    """

    def __init__(self, outputs: Tensor) -> None:
        self._mean, self._log_std = outputs.chunk(2, dim=1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the logarithm of the density, (N,), of each action (N, ...)."""
        away = (action.reshape(self._mean.shape) - self._mean) * (-self._log_std).exp()
        return -(0.5 * away.square() + self._log_std + 0.5 * log(2 * pi)).sum(dim=1)

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats, summed over the N distributions."""
        return (self._log_std + 0.5 * (1 + log(2 * pi))).sum()


#: Points at which the mean over a normal distribution is taken, and their weights: Gauss and Hermite's.
_POINTS, _WEIGHTS = hermegauss(32)


class SquashedNormal(DiagonalNormal):
    """Distributions of N actions that are hyperbolic tangents of independent normal numbers, from (N, 2 * size).

    Actions are given as what was drawn, u, from which `half` * tanh(u) and a constant make a number; where `half` is 0
    the number is u. Densities are those of the resulting numbers.
    """

    def __init__(self, outputs: Tensor, half: Sequence[float]) -> None:
        super().__init__(outputs)
        import torch

        halves = outputs.new_tensor(half)
        self._is_squashed = halves > 0
        #: The logarithm of the slope at u = 0.
        self._steepest = torch.where(self._is_squashed, halves, torch.ones_like(halves)).log()

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the logarithm of the density, (N,), of the action from each drawn u (N, ...)."""
        return super().log_prob(action) - self._log_slope(action.reshape(self._mean.shape)).sum(dim=1)

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats, summed over the N distributions.

        It has no closed form: the mean of the logarithm of the slope is taken at 32 points of Gauss and Hermite's.
        """
        std = self._log_std.exp()
        points = zip(_POINTS.tolist(), (_WEIGHTS / _WEIGHTS.sum()).tolist(), strict=True)
        entropy = super().entropy()
        for point, weight in points:
            entropy = entropy + weight * self._log_slope(self._mean + std * point).sum()
        return entropy

    def _log_slope(self, drawn: Tensor) -> Tensor:
        """Return the logarithm of the derivative of the squashed numbers, by u (N, size).

        That of tanh is 1 - tanh(u)^2 = 1 / cosh(u)^2, which is 0 in float32 from about 9 on; its logarithm is not.
        """
        import torch

        far = drawn.abs()
        squashed = 2 * (log(2) - far - torch.nn.functional.softplus(-2 * far))
        return torch.where(self._is_squashed, squashed, torch.zeros_like(drawn)) + self._steepest
