"""A network with memory as compiled code runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.policies.kind import Parameters
from rattle.policies.mlp.program import flatten, own_or_none
from rattle.policies.recurrent import kernel
from rattle.policies.recurrent.spec import RecurrentSpec
from rattle.policies.sampling import ForwardProgram
from rattle.samples.spaces import CodeSpace


class RecurrentProgram(ForwardProgram):
    """A forward pass that releases the interpreter lock."""

    _spec: RecurrentSpec

    def __init__(self, spec: RecurrentSpec, parameters: Parameters) -> None:
        self._spec = spec
        self._is_codes = isinstance(spec.observation, CodeSpace)  # the kernel never builds their encoding
        self._sizes = np.array(spec.layer_sizes, np.int64)
        self._ways = spec.activation == "tanh", spec.network == "gru"
        self.load(parameters)

    def load(self, parameters: Parameters) -> None:
        """Swap in new weights."""
        self._parameters = flatten(self._spec, parameters, tuple(self._spec.between))

    def forward(
        self,
        observation: NDArray[Any],
        state: NDArray[np.float32] | None = None,
        own: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the outputs (N, outputs) and the values (N,)."""
        rows = len(observation)
        outputs, value = np.empty((rows, self._spec.action.outputs), np.float32), np.empty(rows, np.float32)
        if state is None:
            state = np.zeros((rows, self._spec.memory_size), np.float32)
        network = self._is_codes, self._sizes, self._parameters, *self._ways
        memory = state, self._spec.own.size
        kernel.forward(observation, own_or_none(own, observation), *network, *memory, outputs, value)
        return outputs, value

    def values(
        self,
        observation: NDArray[Any],
        state: NDArray[np.float32] | None = None,
        own: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return the values (N,), 0 without a value head."""
        if not self._spec.value_head:
            return np.zeros(len(observation), np.float32)
        return self.forward(observation, None if state is None else state.copy(), own)[1]
