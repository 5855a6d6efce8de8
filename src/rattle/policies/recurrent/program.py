"""A network with memory as compiled code runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.policies.kind import Parameters
from rattle.policies.mlp.program import flatten
from rattle.policies.recurrent import kernel
from rattle.policies.recurrent.spec import RecurrentSpec
from rattle.policies.sampling import choose
from rattle.samples.spaces import CodeSpace


class RecurrentProgram:
    """A forward pass that releases the interpreter lock; implements `rattle.policies.kind.Program`."""

    def __init__(self, spec: RecurrentSpec, parameters: Parameters) -> None:
        self._spec = spec
        self._is_codes = isinstance(spec.observation, CodeSpace)  # the kernel never builds their encoding
        self._sizes = np.array(spec.layer_sizes, np.int64)
        self._ways = spec.activation == "tanh", spec.network == "gru"
        self.load(parameters)

    def load(self, parameters: Parameters) -> None:
        """Swap in new weights."""
        self._parameters = flatten(self._spec, parameters, tuple(self._spec.between))

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
    ) -> None:
        """Write an action, its log-probability and a value for every row, and what each slot remembers from now on."""
        outputs, value[:] = self.forward(observation, state)
        choose(self._spec.action, outputs, key, first_slot, tick, greedy, action, log_prob)

    def forward(
        self, observation: NDArray[Any], state: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the outputs (N, outputs) and the values (N,)."""
        rows = len(observation)
        outputs, value = np.empty((rows, self._spec.action.outputs), np.float32), np.empty(rows, np.float32)
        if state is None:
            state = np.zeros((rows, self._spec.memory_size), np.float32)
        network = self._is_codes, self._sizes, self._parameters, *self._ways
        kernel.forward(observation, *network, state, outputs, value)
        return outputs, value

    def values(self, observation: NDArray[Any], state: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the values (N,), 0 without a value head."""
        if not self._spec.value_head:
            return np.zeros(len(observation), np.float32)
        return self.forward(observation, None if state is None else state.copy())[1]
