"""The forward pass of a policy with memory in compiled code, for acting, and the scan over time that it learns by.

As in `rattle.policies.mlp.kernel`, each row is computed on its own in one fixed order of operations. `parameters` has
the layers of memory between the hidden layers and the heads.
"""

from __future__ import annotations

import numpy as np
from numba import njit, uint64

from rattle.envs.compiled import compiled
from rattle.policies.mlp.kernel import activate, dense, first_layer, tanh_of

_THREE = np.uint64(3)


@njit(inline="always", fastmath={"contract"})
def _sigmoids(x, width):
    """Replace each of the first numbers by its logistic function: a hyperbolic tangent of half of it."""
    for j in range(width):
        x[j] = np.float32(0.5) * x[j]
    tanh_of(x, width)
    for j in range(width):
        x[j] = np.float32(0.5) * x[j] + np.float32(0.5)


@njit(inline="always", fastmath={"contract"})
def _gru(x, width, parameters, start, memory, gates, recalled):
    """Overwrite memory and x, and return where the next layer's parameters start."""
    start = dense(x, width, parameters, start, _THREE * width, gates)
    start = dense(memory, width, parameters, start, _THREE * width, recalled)
    for j in range(width + width):  # reset, then update
        gates[j] += recalled[j]
    _sigmoids(gates, width + width)
    for j in range(width):
        recalled[j] = gates[width + width + j] + gates[j] * recalled[width + width + j]
    tanh_of(recalled, width)
    for j in range(width):
        memory[j] = (np.float32(1) - gates[width + j]) * recalled[j] + gates[width + j] * memory[j]
        x[j] = memory[j]
    return start


@njit(inline="always", fastmath={"contract"})
def _mingru(x, width, parameters, start, memory, gates, new):
    """Overwrite memory and x, and return where the next layer's parameters start."""
    start = dense(x, width, parameters, start, _THREE * width, gates)
    for j in range(width):
        new[j] = gates[j]
    _sigmoids(gates, _THREE * width)  # of what is new, where it is negative; of the update; of what passes
    for j in range(width):
        candidate = new[j] + np.float32(0.5) if new[j] >= np.float32(0) else gates[j]
        memory[j] = (np.float32(1) - gates[width + j]) * memory[j] + gates[width + j] * candidate
        x[j] = gates[width + width + j] * memory[j] + (np.float32(1) - gates[width + width + j]) * x[j]
    return start


@njit(inline="always")
def _outputs(observation, row, own, is_codes, sizes, parameters, tanh, is_gru, memory, here, there, gates, recalled):
    """Return the array, one of the two scratch arrays, that holds what the heads give; overwrite the row's memory."""
    width = uint64(sizes[1])
    start = first_layer(observation, row, own, is_codes, sizes, parameters, here, there)
    activate(here, width, tanh)
    for layer in range(2, sizes.shape[0] - 1):
        inputs = width
        width = uint64(sizes[layer])
        start = dense(here, inputs, parameters, start, width, there)
        activate(there, width, tanh)
        here, there = there, here
    for layer in range(memory.shape[0] // int(width)):
        part = memory[layer * int(width) : (layer + 1) * int(width)]
        if is_gru:
            start = _gru(here, width, parameters, start, part, gates, recalled)
        else:
            start = _mingru(here, width, parameters, start, part, gates, recalled)
    dense(here, width, parameters, start, uint64(sizes[-1]), there)
    return there


@njit(inline="always")
def _scratch(sizes):
    """Return room for two layers, and for the gates of one."""
    widest, width = np.max(sizes), sizes[-2]
    pair = np.zeros(widest, np.float32), np.zeros(widest, np.float32)
    return (*pair, np.zeros(3 * width, np.float32), np.zeros(3 * width, np.float32))


@compiled
def forward(observation, own, is_codes, sizes, parameters, tanh, is_gru, state, first, outputs, value):
    """Write every row's outputs and value, and overwrite what its slot remembers, `state`, from column `first` on."""
    here, there, gates, recalled = _scratch(sizes)
    numbers, has_value = outputs.shape[1], sizes[-1] > outputs.shape[1]
    for row in range(observation.shape[0]):
        memory = state[row, first:]
        found = _outputs(
            observation, row, own, is_codes, sizes, parameters, tanh, is_gru, memory, here, there, gates, recalled
        )
        for j in range(numbers):
            outputs[row, j] = found[j]
        value[row] = found[numbers] if has_value else np.float32(0)


@compiled
def scan(keep, add, first, found):
    """Write what a linear scan remembers after each tick (T, M): keep * before + add, beginning with first (M,)."""
    for m in range(first.shape[0]):
        found[0, m] = keep[0, m] * first[m] + add[0, m]
    for t in range(1, keep.shape[0]):
        for m in range(first.shape[0]):
            found[t, m] = keep[t, m] * found[t - 1, m] + add[t, m]


@compiled
def scan_gradients(keep, found, first, gradient, of_keep, of_add, of_first):
    """Write the gradients, of_*, of a loss whose gradient by what `scan` found is `gradient` (T, M).

    `of_first` holds what later ticks have added, for the tick that is worked on.
    """
    of_first[:] = 0
    for back in range(keep.shape[0]):
        t = keep.shape[0] - 1 - back
        for m in range(first.shape[0]):
            own = gradient[t, m] + of_first[m]
            of_add[t, m] = own
            of_keep[t, m] = own * (found[t - 1, m] if t > 0 else first[m])
            of_first[m] = own * keep[t, m]
