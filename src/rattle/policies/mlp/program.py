"""The multilayer perceptron as compiled code runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.policies.kind import Parameters
from rattle.policies.mlp import kernel
from rattle.policies.mlp.spec import LayeredSpec, MlpSpec
from rattle.policies.sampling import ForwardProgram
from rattle.samples.spaces import CodeSpace, DiscreteSpace


class MlpProgram(ForwardProgram):
    """A forward pass that releases the interpreter lock."""

    _spec: MlpSpec

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
        action: NDArray[Any],
        log_prob: NDArray[np.float32],
        value: NDArray[np.float32],
        state: NDArray[np.float32] | None = None,
        own: NDArray[np.float32] | None = None,
    ) -> None:
        """Write an action, its log-probability and a value for every row."""
        space = self._spec.action
        if isinstance(space, DiscreteSpace):  # the kernel chooses while the outputs are at hand
            network = (self._is_codes, self._sizes, self._parameters, self._tanh, space.n)
            inputs = observation, own_or_none(own, observation)
            kernel.act(*inputs, *network, key, first_slot, tick, greedy, action, log_prob, value)
            return
        super().act(observation, key, first_slot, tick, greedy, action, log_prob, value, state, own)

    def forward(
        self,
        observation: NDArray[Any],
        state: NDArray[np.float32] | None = None,
        own: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the outputs (N, outputs) and the values (N,)."""
        outputs = self._spec.action.outputs
        found = np.empty((len(observation), outputs), np.float32)
        value = np.empty(len(observation), np.float32)
        network = (self._is_codes, self._sizes, self._parameters, self._tanh, outputs)
        kernel.forward(observation, own_or_none(own, observation), *network, found, value)
        return found, value

    def values(
        self,
        observation: NDArray[Any],
        state: NDArray[np.float32] | None = None,
        own: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return the values (N,), 0 without a value head."""
        value = np.zeros(len(observation), np.float32)
        if self._spec.value_head:
            network = (self._is_codes, self._sizes, self._parameters, self._tanh)
            kernel.values(observation, own_or_none(own, observation), *network, value)
        return value


def own_or_none(own: NDArray[np.float32] | None, observation: NDArray[Any]) -> NDArray[np.float32]:
    """Return own inputs (N, K), of no columns where there are none: compiled code takes an array in any case."""
    return np.empty((len(observation), 0), np.float32) if own is None else own


def flatten(spec: LayeredSpec, parameters: Parameters, between: Sequence[str] = ()) -> NDArray[np.float32]:
    """Return the flat float32 array that the kernel takes, of parameters that fit the spec.

    `between` are the layers between the hidden layers and the heads.
    """
    parameters = with_all_outputs(spec, parameters)
    heads = ["policy", "value"] if spec.value_head else ["policy"]
    trunk = (f"trunk.{i}" for i in range(len(spec.hidden_sizes)))
    layers = [*([name] for name in (*trunk, *between)), heads]
    parts: list[NDArray[np.float32]] = []
    for names in layers:
        parts.append(np.concatenate([parameters[f"{name}.weight"] for name in names]).T.ravel())
        parts.append(np.concatenate([parameters[f"{name}.bias"] for name in names]))
    return np.concatenate(parts)


def with_all_outputs(spec: LayeredSpec, parameters: Parameters) -> Parameters:
    """Return the parameters with a policy head that gives those outputs too that depend on nothing: as biases."""
    alone = spec.alone
    if alone is None:
        return parameters
    weight, bias, own = (parameters[name] for name in ("policy.weight", "policy.bias", alone))
    return {
        **{name: array for name, array in parameters.items() if name != alone},
        "policy.weight": np.concatenate([weight, np.zeros((len(own), weight.shape[1]), np.float32)]),
        "policy.bias": np.concatenate([bias, own]),
    }
