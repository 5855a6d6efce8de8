"""The forward pass of a policy in compiled code, for acting.

Each row is computed on its own, in one fixed order of operations: a row gives the same bits in any batch, which
matrix libraries do not promise. One-hot inputs are never built: the first layer adds up the weight rows of the cells
that hold something.

`parameters` is one flat float32 array: for each layer its weights (inputs, outputs), then its biases.
Indices are unsigned because signed ones bring a test for negative values into the inner loops.
"""

from __future__ import annotations

import numpy as np
from numba import njit, uint64

from rattle.envs.compiled import compiled
from rattle.policies.sampling import choose_one

_ONE = np.uint64(1)
_EIGHT = np.uint64(8)


@njit(inline="always", fastmath={"contract"})
def _add_weighted_row(out, weight, parameters, start, width):
    for j in range(width):
        out[j] += weight * parameters[start + j]


@njit(inline="always", fastmath={"contract"})
def dense(x, inputs, parameters, start, width, out):
    """Set out = x @ weights + biases and return where the next layer's parameters start.

    Eight inputs at a time, so that `out` is loaded and stored an eighth as often.
    """
    bias = start + inputs * width
    for j in range(width):
        out[j] = parameters[bias + j]
    i = uint64(0)
    while i + _EIGHT <= inputs:
        p0 = start + i * width
        p1 = p0 + width
        p2 = p1 + width
        p3 = p2 + width
        p4 = p3 + width
        p5 = p4 + width
        p6 = p5 + width
        p7 = p6 + width
        x0 = x[i]
        x1 = x[i + uint64(1)]
        x2 = x[i + uint64(2)]
        x3 = x[i + uint64(3)]
        x4 = x[i + uint64(4)]
        x5 = x[i + uint64(5)]
        x6 = x[i + uint64(6)]
        x7 = x[i + uint64(7)]
        for j in range(width):
            out[j] += (
                x0 * parameters[p0 + j]
                + x1 * parameters[p1 + j]
                + x2 * parameters[p2 + j]
                + x3 * parameters[p3 + j]
                + x4 * parameters[p4 + j]
                + x5 * parameters[p5 + j]
                + x6 * parameters[p6 + j]
                + x7 * parameters[p7 + j]
            )
        i += _EIGHT
    while i < inputs:
        _add_weighted_row(out, x[i], parameters, start + i * width, width)
        i += _ONE
    return bias + width


@njit(inline="always", fastmath={"contract"})
def _encoded_dense(observation, row, own, parameters, inputs, width, out):
    """Do what `dense` does for the one-hot encoding of a row of codes, and the row's own inputs after it.

    The layer is at the start of `parameters`.
    """
    bias = inputs * width
    cells = uint64(observation.shape[1])
    for j in range(width):
        out[j] = parameters[bias + j]
    for k in range(cells):
        code = uint64(observation[row, k])
        if code != uint64(0):
            _add_weighted_row(out, np.float32(1), parameters, ((code - _ONE) * cells + k) * width, width)
    first = inputs - uint64(own.shape[1])
    for k in range(uint64(own.shape[1])):
        if own[row, k] != np.float32(0):
            _add_weighted_row(out, own[row, k], parameters, (first + k) * width, width)
    return bias + width


@njit(error_model="numpy", fastmath={"contract"})  # a test of the divisor would keep the loop from being vectorised
def tanh_of(x, width):
    """Replace each of the first numbers by its hyperbolic tangent, at most 0.52 units in the last place from it.

    The quotient of polynomials is within 1.1e-9 of tanh(x) / x up to 9.1, where float32 has long been 1. It is computed
    in 64 bits, so that what is rounded in the end rises with x, and 0 and the smallest numbers stay what they are.
    """
    for j in range(width):
        given = x[j]
        y = np.float64(given)
        t = y * y
        p = 5.0383714015403708861e-8
        p = p * t + 3.1481548794989222135e-5
        p = p * t + 0.0040035724975660700989
        p = p * t + 0.13781492739650350543
        p = p * t + 0.99999999898603858741
        q = 7.2981768256780946449e-10
        q = q * t + 1.6091420712145017037e-6
        q = q * t + 0.0004198475829822803399
        q = q * t + 0.027719672414801748288
        q = q * t + 0.47114825071609246323
        q = q * t + 1.0
        found = np.float32(y * p / q)
        found = np.float32(1) if given > np.float32(9.1) else found
        x[j] = np.float32(-1) if given < np.float32(-9.1) else found  # not a number stays so


@njit(inline="always")
def activate(x, width, tanh):
    """Replace the first numbers of x by what the activation makes of them."""
    if tanh:
        tanh_of(x, width)
    else:
        for j in range(width):
            x[j] = max(x[j], np.float32(0))


@njit(inline="always")
def first_layer(observation, row, own, is_codes, sizes, parameters, out, scratch):
    """Write what the first layer gives for a row, and return where the next layer's parameters start.

    `own` (N, K) are what the policy sees of its own past, in addition to the observation.
    """
    width = uint64(sizes[1])
    if is_codes:
        return _encoded_dense(observation, row, own, parameters, uint64(sizes[0]), width, out)
    for k in range(uint64(observation.shape[1])):
        scratch[k] = observation[row, k]
    for k in range(uint64(own.shape[1])):
        scratch[uint64(observation.shape[1]) + k] = own[row, k]
    return dense(scratch, uint64(sizes[0]), parameters, uint64(0), width, out)


@njit(inline="always")
def _outputs(observation, row, own, is_codes, sizes, parameters, tanh, here, there):
    """Return the array, one of the two scratch arrays, that holds what the last layer gives for one row."""
    width = uint64(sizes[1])
    start = first_layer(observation, row, own, is_codes, sizes, parameters, here, there)
    for layer in range(2, sizes.shape[0]):
        activate(here, width, tanh)
        inputs = width
        width = uint64(sizes[layer])
        start = dense(here, inputs, parameters, start, width, there)
        here, there = there, here
    return here


@compiled
def act(
    observation,
    own,
    is_codes,
    sizes,
    parameters,
    tanh,
    num_actions,
    key,
    first_slot,
    tick,
    greedy,
    action,
    log_prob,
    value,
):
    """Choose an action for every row and say its log-probability and the row's value.

    Row r draws from the counter (tick, first_slot + r) under the key, so that a slot's draw at a tick does not depend
    on the batch that it is in.
    """
    widest = uint64(np.max(sizes))
    here = np.zeros(widest, np.float32)
    there = np.zeros(widest, np.float32)
    has_value = sizes[-1] > num_actions
    for row in range(observation.shape[0]):
        outputs = _outputs(observation, row, own, is_codes, sizes, parameters, tanh, here, there)
        slot = uint64(first_slot) + uint64(row)
        action[row], log_prob[row] = choose_one(
            outputs, num_actions, greedy, uint64(tick), slot, uint64(key[0]), uint64(key[1])
        )
        value[row] = outputs[num_actions] if has_value else np.float32(0)


@compiled
def forward(observation, own, is_codes, sizes, parameters, tanh, num_actions, logits, value):
    """Write every row's logits and value: what `act` chooses from."""
    widest = uint64(np.max(sizes))
    here = np.zeros(widest, np.float32)
    there = np.zeros(widest, np.float32)
    has_value = sizes[-1] > num_actions
    for row in range(observation.shape[0]):
        outputs = _outputs(observation, row, own, is_codes, sizes, parameters, tanh, here, there)
        for a in range(num_actions):
            logits[row, a] = outputs[a]
        value[row] = outputs[num_actions] if has_value else np.float32(0)


@compiled
def values(observation, own, is_codes, sizes, parameters, tanh, value):
    """Predict the value of every row; the last layer's last output is the value."""
    widest = uint64(np.max(sizes))
    here = np.zeros(widest, np.float32)
    there = np.zeros(widest, np.float32)
    for row in range(observation.shape[0]):
        outputs = _outputs(observation, row, own, is_codes, sizes, parameters, tanh, here, there)
        value[row] = outputs[sizes[-1] - 1]
