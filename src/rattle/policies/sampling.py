"""Choosing actions from the outputs of a policy's head, by counters: in compiled code, a row at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

from rattle.envs.compiled import compiled
from rattle.envs.philox import philox
from rattle.policies.errors import PolicyError


class Groups(NamedTuple):
    """Rows of a batch that belong together, one group after another; a group draws the same in any batch."""

    rows: NDArray[np.int64]  # (G,) how many rows each group has
    seed: NDArray[np.uint64]  # (G,)
    greedy: NDArray[np.bool_]  # (G,) take the most probable action instead of drawing one


def draw(logits: NDArray[np.float32], groups: Groups) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return an action and its log-probability for every row of logits (N, actions), from `ActingPolicy.forward`.

    A group gets what `ActingPolicy.act` with its seed gives its rows at tick 0. Raises PolicyError when the groups do
    not make up N rows.
    """
    action = np.empty(len(logits), np.int64)
    log_prob = np.empty(len(logits), np.float32)
    if not _draw(logits, *groups, action, log_prob):
        raise PolicyError(f"groups of {groups.rows.tolist()} rows do not make up {len(logits)} rows of logits")
    return action, log_prob


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
def choose(logits, key, first_slot, tick, greedy, action, log_prob):
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
def _draw(logits, rows, seed, greedy, action, log_prob):
    """Choose an action for every row of logits as `act` does at tick 0.

    The rows are those of several groups, one after another: group g has rows[g] of them, and its row r draws as slot r
    under the key seed[g], in whatever batch the group is. Returns whether the groups make up the rows of logits;
    nothing is written if not.
    """
    left = logits.shape[0]
    for group in range(rows.shape[0]):
        if not 0 <= rows[group] <= left:
            return False
        left -= rows[group]
    if left:
        return False
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
    return True
