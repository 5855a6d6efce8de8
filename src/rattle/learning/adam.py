"""Adam (Kingma and Ba, 2015), by PyTorch's fused kernel.

torch.optim.Adam gives the same bits, but imports PyTorch's compiler when it is made: that takes as long as all else
that the start of a run does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

BETAS = (0.9, 0.999)
EPSILON = 1e-5

#: What is kept of each weight, by the weight's number: torch.optim.Adam's names. Nothing before the first step.
Moments = dict[int, dict[str, Tensor]]
NAMES = ("step", "exp_avg", "exp_avg_sq")


class Adam:
    """Moves weights along their gradients, as far as the moments of these say."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = list(weights)
        self.moments: Moments = {}

    def step(self, learning_rate: float) -> None:
        """Move the weights, each along its gradient, which all must have."""
        self.moments = self.moments or {number: _none_yet(weight) for number, weight in enumerate(self._weights)}
        step, exp_avg, exp_avg_sq = ([known[name] for known in self.moments.values()] for name in NAMES)
        with torch.no_grad():
            adam(
                self._weights,
                [gradient for weight in self._weights if (gradient := weight.grad) is not None],
                exp_avg,
                exp_avg_sq,
                [],
                step,
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=learning_rate,
                weight_decay=0.0,
                eps=EPSILON,
                maximize=False,
            )

    def copy(self) -> Moments:
        """Return the moments, as `restore` takes them."""
        return {
            number: {name: tensor.clone() for name, tensor in known.items()} for number, known in self.moments.items()
        }

    def restore(self, moments: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Take moments in place of those that there are."""
        self.moments = {
            number: {name: tensor.to(self._weights[number].device, torch.float32) for name, tensor in known.items()}
            for number, known in moments.items()
        }


def _none_yet(weight: Tensor) -> dict[str, Tensor]:
    zeros = [torch.zeros_like(weight, memory_format=torch.preserve_format) for _ in range(2)]
    return dict(zip(NAMES, [torch.zeros((), dtype=torch.float32, device=weight.device), *zeros], strict=True))
