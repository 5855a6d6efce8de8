"""The multilayer perceptron as compiled code runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.policies.kind import Parameters
from rattle.policies.mlp import kernel
from rattle.policies.mlp.spec import MlpSpec
from rattle.samples.spaces import CodeSpace


class MlpProgram:
    """A forward pass that releases the interpreter lock; implements `rattle.policies.kind.Program`."""

    def __init__(self, spec: MlpSpec, parameters: Parameters) -> None:
        self._spec = spec
        self._is_codes = isinstance(spec.observation, CodeSpace)  # the kernel never builds their encoding
        self._sizes = np.array(spec.layer_sizes, np.int64)
        self._tanh = spec.activation == "tanh"
        self.load(parameters)

    def load(self, parameters: Parameters) -> None:
        """Swap in new weights."""
        self._parameters = flatten(self._spec, parameters)

    def act(
        self,
        observation: NDArray[Any],
        key: NDArray[np.uint64],
        first_slot: int,
        tick: int,
        greedy: bool,
        action: NDArray[np.int64],
        log_prob: NDArray[np.float32],
        value: NDArray[np.float32],
        state: NDArray[np.float32] | None = None,
    ) -> None:
        """Write an action, its log-probability and a value for every row."""
        outputs = self._spec.action.outputs
        network = (self._is_codes, self._sizes, self._parameters, self._tanh, outputs)
        kernel.act(observation, *network, key, first_slot, tick, greedy, action, log_prob, value)

    def forward(
        self, observation: NDArray[Any], state: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the logits (N, actions) and the values (N,)."""
        outputs = self._spec.action.outputs
        logits = np.empty((len(observation), outputs), np.float32)
        value = np.empty(len(observation), np.float32)
        network = (self._is_codes, self._sizes, self._parameters, self._tanh, outputs)
        kernel.forward(observation, *network, logits, value)
        return logits, value

    def values(self, observation: NDArray[Any], state: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the values (N,), 0 without a value head."""
        value = np.zeros(len(observation), np.float32)
        if self._spec.value_head:
            kernel.values(observation, self._is_codes, self._sizes, self._parameters, self._tanh, value)
        return value


def flatten(spec: MlpSpec, parameters: Parameters) -> NDArray[np.float32]:
    """Return the flat float32 array that the kernel takes, of parameters that fit the spec."""
    heads = ["policy", "value"] if spec.value_head else ["policy"]
    layers = [[f"trunk.{i}"] for i in range(len(spec.hidden_sizes))] + [heads]
    parts: list[NDArray[np.float32]] = []
    for names in layers:
        parts.append(np.concatenate([parameters[f"{name}.weight"] for name in names]).T.ravel())
        parts.append(np.concatenate([parameters[f"{name}.bias"] for name in names]))
    return np.concatenate(parts)
