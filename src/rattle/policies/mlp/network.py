"""The network of a policy in PyTorch: what learns."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn

from rattle.policies.mlp.spec import LayeredSpec

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class MultilayerPerceptron(nn.Module):
    """Observations (N, row) to outputs (N, outputs) and values (N,); values are zero without a value head."""

    def __init__(self, spec: LayeredSpec, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.spec = spec
        sizes = (spec.first_inputs, *spec.hidden_sizes)
        self.trunk = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.activation = _ACTIVATIONS[spec.activation]()
        self.policy = nn.Linear(sizes[-1], spec.action.outputs - spec.action.outputs_alone)
        if spec.action.learnt_alone is not None:  # such as standard deviations of 1 in the beginning
            alone = nn.Parameter(torch.zeros(spec.action.outputs_alone))
            self.policy.register_parameter(spec.action.learnt_alone, alone)
        self.value = nn.Linear(sizes[-1], 1) if spec.value_head else None
        self._initialise(generator)

    def _initialise(self, generator: torch.Generator | None) -> None:
        """Draw orthogonal weights; a small policy head makes the first policy nearly uniform.

        Andrychowicz et al., "What Matters for On-Policy Deep Actor-Critic Methods?" (ICLR 2021), finds both to help.
        """
        gains = [(layer, sqrt(2.0)) for layer in self.trunk] + [(self.policy, 0.01)]
        for layer, gain in [*gains, (self.value, 1.0)]:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, gain, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, observation: Tensor, *, own: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return outputs (N, outputs) and values (N,) for observations (N, row) and what is seen of the past (N, K)."""
        return self.heads(self.hidden(observation, own))

    def hidden(self, observation: Tensor, own: Tensor | None) -> Tensor:
        """Return what the last hidden layer gives (N, width)."""
        hidden = self.spec.observation.encode(observation)
        if own is not None:
            hidden = torch.cat([hidden, own], dim=1)
        for layer in self.trunk:
            hidden = self.activation(layer(hidden))
        return hidden

    def heads(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs (N, outputs) and values (N,) for what the last layer before the heads gives (N, width)."""
        outputs = self.policy(hidden)
        value = self.value(hidden).squeeze(1) if self.value is not None else outputs.new_zeros(outputs.shape[0])
        if self.spec.action.learnt_alone is not None:
            alone = getattr(self.policy, self.spec.action.learnt_alone)
            outputs = torch.cat([outputs, alone.expand(len(outputs), -1)], dim=1)
        return outputs, value
