"""The units that a learner learns in, while policies observe, and predict, in those of the environment.

The network of the learner takes observations shifted and scaled, and says values in units of the size of returns. What
goes out as a policy has both multiplied into its first layer and its value head, so that it is a network like others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rattle.learning.algorithms.algorithm import Algorithm
from rattle.learning.input_scale import InputScale, converted
from rattle.learning.value_scale import ValueScale
from rattle.policies.kind import NetworkKind
from rattle.policies.spec import PolicySpec
from rattle.samples.rollout import Rollout, scaled

Weights = dict[str, NDArray[np.float32]]


class Units:
    """The scales of inputs and values, which follow what is played, and the network's weights in these units.

    When a scale changes, weights change with it, so that a policy stays what it was: van Hasselt et al., "Learning
    values across many orders of magnitude" (arXiv 1602.07714), do so with values.
    """

    def __init__(self, network: nn.Module, kind: NetworkKind[Any], spec: PolicySpec, algorithm: Algorithm) -> None:
        self._weights = dict(network.named_parameters())
        self._buffers = dict(network.named_buffers())
        self._shown: Callable[[Tensor], None] | None = getattr(network, "follow", None)
        self._value_head = kind.value_head
        is_scaled = algorithm.scale_observations and spec.observation.scalable
        self._layers = kind.input_layers(spec) if is_scaled else ()
        self._heads = [self._weights[name] for name in (*kind.policy_head, *kind.value_head) if name in self._weights]
        self._algorithm = algorithm
        self._in_use = algorithm.scale_rewards or bool(self._layers)
        self._size = spec.observation.inputs
        self._values, self._inputs = ValueScale(), InputScale.of_nothing(self._size)

    def draw(self) -> None:
        """Have a network that was just drawn say nothing yet: what it says would depend on the size of all things."""
        names = self._value_head if self._algorithm.scale_rewards else ()
        zero = self._heads if self._layers else [self._weights[name] for name in names if name in self._weights]
        with torch.no_grad():
            for weight in zero:
                weight.zero_()

    def follow(self, rollout: Rollout[Tensor]) -> Rollout[Tensor]:
        """Let the scales follow a rollout, and return it in the units that result."""
        if self._shown is not None and bool(rollout.active.any()):
            self._shown(rollout.observation[rollout.active])
        if self._layers:
            self._take_inputs(self._inputs.after(rollout))
            rollout = rollout.replace(observation=self._inputs.apply(rollout.observation))
        if self._algorithm.scale_rewards:
            self._take_values(self._values.after(rollout, self._algorithm.discount))
            rollout = scaled(rollout, 1.0 / self._values.factor)
        return rollout

    def keep(self) -> Callable[[], None]:
        """Return what puts scales, and weights that change with them, back to what they are now."""
        scales = self._values, self._inputs
        names = [name for name in (*self._value_head, *self._in_layers()) if name in self._weights and self._in_use]
        weights = {name: self._weights[name].detach().clone() for name in names}
        buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}

        def put_back() -> None:
            self._values, self._inputs = scales
            self._set(weights)
            for name, buffer in buffers.items():
                self._buffers[name].copy_(buffer)

        return put_back

    def raw(self, weights: Weights) -> Weights:
        """Return the network's weights as a policy has them, which observes and predicts in the environment's units."""
        if not self._in_use:
            return weights
        moved = self._converted(weights, InputScale.of_nothing(self._size))
        factor = np.float32(self._values.factor)
        return {name: array * factor if name in self._value_head else array for name, array in moved.items()}

    def take_raw(self) -> None:
        """Take note that the weights have been replaced by those of a policy."""
        self._values, self._inputs = ValueScale(), InputScale.of_nothing(self._size)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all scales that are in use, by name."""
        values = self._values.state() if self._algorithm.scale_rewards else {}
        inputs = self._inputs.state() if self._layers else {}
        return {
            **{f"value_scale/{name}": array for name, array in values.items()},
            **{f"input_scale/{name}": array for name, array in inputs.items()},
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take the scales that `state` described, with the weights of the same time."""
        values, inputs = (
            {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}
            for prefix in ("value_scale/", "input_scale/")
        )
        self._values, self._inputs = ValueScale.of(values), InputScale.of(inputs, self._size)

    def _take_values(self, scale: ValueScale) -> None:
        factor = self._values.factor / scale.factor
        self._values = scale
        if factor != 1.0:
            with torch.no_grad():
                for name in self._value_head:
                    if name in self._weights:
                        self._weights[name].mul_(factor)

    def _take_inputs(self, scale: InputScale) -> None:
        """Take another scale of inputs; a network that says nothing yet keeps its weights, drawn for scaled inputs."""
        if any(bool(head.any()) for head in self._heads):
            names = self._in_layers()
            arrays = {name: self._weights[name].detach().cpu().numpy() for name in names}
            self._set({name: torch.from_numpy(array) for name, array in self._converted(arrays, scale).items()})
        self._inputs = scale

    def _converted(self, weights: Weights, scale: InputScale) -> Weights:
        """Return weights as they are where inputs have another scale."""
        changed = dict(weights)
        for layer in self._layers:
            weight, bias = f"{layer}.weight", f"{layer}.bias"
            observed, own = np.split(weights[weight], [self._size], axis=1)  # what is seen of the past has no scale
            observed, changed[bias] = converted(observed, weights[bias], self._inputs, scale)
            changed[weight] = np.concatenate([observed, own], axis=1)
        return changed

    def _in_layers(self) -> list[str]:
        return [f"{layer}.{part}" for layer in self._layers for part in ("weight", "bias")]

    def _set(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                self._weights[name].copy_(weight)
