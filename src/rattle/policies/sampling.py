"""Choosing actions from the outputs of a policy's head, by counters: in compiled code, a row at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import cos, log, pi, prod, sin, sqrt
from typing import Any, NamedTuple

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

from rattle.envs.compiled import compiled
from rattle.envs.philox import philox
from rattle.policies.errors import PolicyError
from rattle.samples.spaces import Actions, DiscreteSpace


class Groups(NamedTuple):
    """Rows of a batch that belong together, one group after another; a group draws the same in any batch."""

    rows: NDArray[np.int64]  # (G,) how many rows each group has
    seed: NDArray[np.uint64]  # (G,)
    greedy: NDArray[np.bool_]  # (G,) take the most probable action instead of drawing one


def draw(space: Actions, outputs: NDArray[np.float32], groups: Groups) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return an action and its log-probability for every row of outputs (N, outputs), from `ActingPolicy.forward`.

    A group gets what `ActingPolicy.act` with its seed gives its rows at tick 0. Raises PolicyError when the groups do
    not make up N rows.
    """
    action = space.zeros(len(outputs))
    log_prob = np.empty(len(outputs), np.float32)
    if not _make_up(groups.rows, len(outputs)):
        raise PolicyError(f"groups of {groups.rows.tolist()} rows do not make up {len(outputs)} rows of outputs")
    _SAMPLERS[space.kind].draw(outputs, *groups, _flat(space, action), log_prob)
    return action, log_prob


def choose(
    space: Actions,
    outputs: NDArray[np.float32],
    key: NDArray[np.uint64],
    first_slot: int,
    tick: int,
    greedy: bool,
    action: NDArray[Any],
    log_prob: NDArray[np.float32],
) -> None:
    """Write an action and its log-probability for every row of outputs (N, outputs), as `Program.act` does."""
    _SAMPLERS[space.kind].choose(outputs, key, first_slot, tick, greedy, _flat(space, action), log_prob)


def _flat(space: Actions, action: NDArray[Any]) -> NDArray[Any]:
    """Return a view of contiguous actions: a list of whole numbers, or rows of numbers."""
    return action if isinstance(space, DiscreteSpace) else action.reshape(len(action), prod(space.shape))


@njit(inline="always")
def _normaliser(logits, num_actions):
    """Return the largest logit, and the sum over all logits of the exponential of what they lie below it."""
    largest = logits[0]
    for a in range(1, num_actions):
        largest = max(largest, logits[a])
    total = np.float32(0)
    for a in range(num_actions):
        total += np.exp(logits[a] - largest)
    return largest, total


@njit(inline="always")
def _sample(logits, num_actions, largest, total, uniform):
    """Invert the cumulative distribution at `uniform`, from [0, 1).

    It is summed up as `total` was, so that rounding leaves no gap before 1 for an action of probability 0.
    """
    wanted = uniform * total
    below = np.float32(0)
    for a in range(num_actions - 1):
        below += np.exp(logits[a] - largest)
        if wanted < below:
            return a
    return num_actions - 1


@njit(inline="always")
def _best(logits, num_actions):
    best = 0
    for a in range(1, num_actions):
        if logits[a] > logits[best]:
            best = a
    return best


@njit(inline="always")
def choose_one(logits, num_actions, greedy, tick, slot, key_low, key_high):
    """Return an action and its log-probability; the draw is from the counter (tick, slot) under the key."""
    largest, total = _normaliser(logits, num_actions)
    if greedy:
        chosen = _best(logits, num_actions)
    else:
        word, _, _, _ = philox(
            tick & uint64(0xFFFFFFFF),
            tick >> uint64(32),
            slot & uint64(0xFFFFFFFF),
            slot >> uint64(32),
            key_low,
            key_high,
        )
        # 24 bits: as many as a float32 below 1 can hold exactly.
        uniform = np.float32(word >> uint64(8)) * np.float32(2.0**-24)
        chosen = _sample(logits, num_actions, largest, total, uniform)
    return chosen, logits[chosen] - largest - np.log(total)


@compiled
def _make_up(rows, left):
    """Whether groups of so many rows make up all that are left."""
    for group in range(rows.shape[0]):
        if not 0 <= rows[group] <= left:
            return False
        left -= rows[group]
    return left == 0


@compiled
def _choose_discrete(logits, key, first_slot, tick, greedy, action, log_prob):
    """Choose an action for every row of logits (N, actions); row r draws from the counter (tick, first_slot + r)."""
    num_actions = logits.shape[1]
    scratch = np.zeros(num_actions, np.float32)
    for row in range(logits.shape[0]):
        for a in range(num_actions):
            scratch[a] = logits[row, a]
        slot = uint64(first_slot) + uint64(row)
        action[row], log_prob[row] = choose_one(
            scratch, num_actions, greedy, uint64(tick), slot, uint64(key[0]), uint64(key[1])
        )


@compiled
def _draw_discrete(logits, rows, seed, greedy, action, log_prob):
    """Choose an action for every row of logits as `act` does at tick 0.

    The rows are those of several groups, one after another: group g has rows[g] of them, and its row r draws as slot r
    under the key seed[g], in whatever batch the group is.
    """
    num_actions = logits.shape[1]
    scratch = np.zeros(num_actions, np.float32)
    row = 0
    for group in range(rows.shape[0]):
        key_low = seed[group] & uint64(0xFFFFFFFF)
        key_high = seed[group] >> uint64(32)
        for slot in range(rows[group]):
            for a in range(num_actions):
                scratch[a] = logits[row, a]
            action[row], log_prob[row] = choose_one(
                scratch, num_actions, greedy[group], uint64(0), uint64(slot), key_low, key_high
            )
            row += 1


@njit(inline="always")
def _normal(words, number):
    """Return one of two independent normal numbers that two words of 32 bits give: Box and Muller's."""
    first, second = words[number - number % 2], words[number - number % 2 + 1]
    radius = sqrt(-2.0 * log((first + 1.0) * 2.0**-32))  # from (0, 1]
    angle = 2.0 * pi * (second * 2.0**-32)
    return radius * (sin(angle) if number % 2 else cos(angle))


@njit
def _choose_normal(outputs, row, greedy, tick, slot, key_low, key_high, action, words):
    """Write the means of one row, or draws around them, and return the logarithm of their density.

    Numbers 4 i to 4 i + 3 are drawn from the counter (tick, slot) under the key with i added to its upper half.
    """
    size = action.shape[1]
    density = np.float32(0)
    for j in range(size):
        mean, log_std = outputs[row, j], outputs[row, size + j]
        chosen = mean
        if not greedy:
            if j % 4 == 0:
                words[0], words[1], words[2], words[3] = philox(
                    tick & uint64(0xFFFFFFFF),
                    tick >> uint64(32),
                    slot & uint64(0xFFFFFFFF),
                    slot >> uint64(32),
                    key_low,
                    (key_high + uint64(j // 4)) & uint64(0xFFFFFFFF),
                )
            chosen = mean + np.exp(log_std) * np.float32(_normal(words, j % 4))
        action[row, j] = chosen
        away = (chosen - mean) * np.exp(-log_std)
        density -= np.float32(0.5) * away * away + log_std + np.float32(0.5 * log(2.0 * pi))
    return density


@compiled
def _choose_box(outputs, key, first_slot, tick, greedy, action, log_prob):
    """Choose an action for every row of means and logarithms of standard deviations."""
    words = np.zeros(4, np.uint64)
    for row in range(outputs.shape[0]):
        slot = uint64(first_slot) + uint64(row)
        log_prob[row] = _choose_normal(
            outputs, row, greedy, uint64(tick), slot, uint64(key[0]), uint64(key[1]), action, words
        )


@compiled
def _draw_box(outputs, rows, seed, greedy, action, log_prob):
    """Choose an action for every row as `act` does at tick 0; the rows are those of groups, as in `_draw_discrete`."""
    words = np.zeros(4, np.uint64)
    row = 0
    for group in range(rows.shape[0]):
        key_low = seed[group] & uint64(0xFFFFFFFF)
        key_high = seed[group] >> uint64(32)
        for slot in range(rows[group]):
            log_prob[row] = _choose_normal(
                outputs, row, greedy[group], uint64(0), uint64(slot), key_low, key_high, action, words
            )
            row += 1


class _Sampler(NamedTuple):
    choose: Callable[..., None]
    draw: Callable[..., None]


#: By the kind of actions: how they are chosen.
_SAMPLERS: Mapping[str, _Sampler] = {
    "discrete": _Sampler(_choose_discrete, _draw_discrete),
    "box": _Sampler(_choose_box, _draw_box),
}
