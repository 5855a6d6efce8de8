"""Choosing actions from the outputs of a policy's head, by counters: in compiled code, a row at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from math import cos, log, pi, prod, sin, sqrt
from typing import Any, NamedTuple

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

from rattle.envs.compiled import compiled
from rattle.envs.philox import philox
from rattle.policies.errors import PolicyError
from rattle.policies.spec import PolicySpec
from rattle.samples.spaces import Actions, SquashedBoxSpace


class Groups(NamedTuple):
    """Rows of a batch that belong together, one group after another; a group draws the same in any batch."""

    rows: NDArray[np.int64]  # (G,) how many rows each group has
    seed: NDArray[np.uint64]  # (G,)
    greedy: NDArray[np.bool_]  # (G,) take the most probable action instead of drawing one


class ForwardProgram(ABC):
    """A program that chooses from what its forward pass gives; implements `rattle.policies.kind.Program`."""

    _spec: PolicySpec

    @abstractmethod
    def forward(
        self,
        observation: NDArray[Any],
        state: NDArray[np.float32] | None = None,
        own: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the outputs (N, outputs) and the values (N,), and overwrite what each slot remembers."""

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
        """Write an action, its log-probability and a value for every row, and what each slot remembers from now on."""
        outputs, value[:] = self.forward(observation, state, own)
        choose(self._spec.action, outputs, key, first_slot, tick, greedy, action, log_prob)


def draw(space: Actions, outputs: NDArray[np.float32], groups: Groups) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return an action and its log-probability for every row of outputs (N, outputs), from `ActingPolicy.forward`.

    A group gets what `ActingPolicy.act` with its seed gives its rows at tick 0. Raises PolicyError when the groups do
    not make up N rows.
    """
    action = space.zeros(len(outputs))
    log_prob = np.empty(len(outputs), np.float32)
    if not _make_up(groups.rows, len(outputs)):
        raise PolicyError(f"groups of {groups.rows.tolist()} rows do not make up {len(outputs)} rows of outputs")
    keys = np.stack([groups.seed & np.uint64(0xFFFFFFFF), groups.seed >> np.uint64(32)], axis=1)
    _draw(space, outputs, groups.rows, keys, groups.greedy, 0, 0, action, log_prob)
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
    _draw(space, outputs, np.array([len(outputs)]), key[None], np.array([greedy]), first_slot, tick, action, log_prob)


def _draw(space: Actions, outputs: NDArray[np.float32], *how: Any) -> None:
    """Have compiled code draw whole numbers by their logits, and real ones by their normal distributions."""
    *groups, action, log_prob = how
    rows = action.reshape(len(action), prod(space.shape))
    if space.choices:
        _draw_whole(outputs, *groups, rows, log_prob, _as_array(space.choices))
    else:
        halves = (
            space.half_widths.ravel() if isinstance(space, SquashedBoxSpace) else np.zeros(rows.shape[1], np.float32)
        )
        _draw_real(outputs, *groups, rows, log_prob, halves)


@lru_cache(maxsize=64)
def _as_array(choices: tuple[int, ...]) -> NDArray[np.int64]:
    return np.array(choices, np.int64)


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
def _choose_whole(logits, num_actions, greedy, word):
    """Return one of the numbers below `num_actions`, drawn by 32 random bits, and its log-probability."""
    largest, total = _normaliser(logits, num_actions)
    if greedy:
        chosen = _best(logits, num_actions)
    else:
        # 24 bits: as many as a float32 below 1 can hold exactly.
        uniform = np.float32(word >> uint64(8)) * np.float32(2.0**-24)
        chosen = _sample(logits, num_actions, largest, total, uniform)
    return chosen, logits[chosen] - largest - np.log(total)


@njit(inline="always")
def _words(tick, slot, key_low, key_high):
    """Return four words of 32 random bits: of the counter (tick, slot) under the key."""
    return philox(
        tick & uint64(0xFFFFFFFF),
        tick >> uint64(32),
        slot & uint64(0xFFFFFFFF),
        slot >> uint64(32),
        key_low,
        key_high & uint64(0xFFFFFFFF),
    )


@njit(inline="always")
def choose_one(logits, num_actions, greedy, tick, slot, key_low, key_high):
    """Return an action and its log-probability; the draw is from the counter (tick, slot) under the key."""
    word = uint64(0)
    if not greedy:
        word, _, _, _ = _words(tick, slot, key_low, key_high)
    return _choose_whole(logits, num_actions, greedy, word)


@compiled
def _make_up(rows, left):
    """Whether groups of so many rows make up all that are left."""
    for group in range(rows.shape[0]):
        if not 0 <= rows[group] <= left:
            return False
        left -= rows[group]
    return left == 0


@compiled
def _draw_whole(logits, rows, keys, greedy, first_slot, tick, action, log_prob, choices):
    """Choose whole numbers (N, numbers) for every row of logits, which holds those of one number after another's.

    The rows are those of several groups: group g has rows[g] of them, and its row r draws from the counter
    (tick, first_slot + r) under keys[g], in whatever batch the group is. Number j takes word j % 4 of what the counter
    gives under the key with j // 4 added to its upper half.
    """
    scratch = np.zeros(np.max(choices), np.float32)
    words = np.zeros(4, np.uint64)
    row = 0
    for group in range(rows.shape[0]):
        for r in range(rows[group]):
            slot, first, total = uint64(first_slot) + uint64(r), 0, np.float32(0)
            for j in range(choices.shape[0]):
                for a in range(choices[j]):
                    scratch[a] = logits[row, first + a]
                if not greedy[group] and j % 4 == 0:
                    words[0], words[1], words[2], words[3] = _words(
                        uint64(tick), slot, keys[group, 0], keys[group, 1] + uint64(j // 4)
                    )
                action[row, j], one = _choose_whole(scratch, choices[j], greedy[group], words[j % 4])
                total += one
                first += choices[j]
            log_prob[row] = total
            row += 1


@njit(inline="always")
def _normal(words, number):
    """Return one of two independent normal numbers that two words of 32 bits give: Box and Muller's."""
    first, second = words[number - number % 2], words[number - number % 2 + 1]
    radius = sqrt(-2.0 * log((first + 1.0) * 2.0**-32))  # from (0, 1]
    angle = 2.0 * pi * (second * 2.0**-32)
    return radius * (sin(angle) if number % 2 else cos(angle))


@compiled
def _draw_real(outputs, rows, keys, greedy, first_slot, tick, action, log_prob, halves):
    """Write the means of every row (N, 2 * numbers), or draws around them, and the logarithm of their density.

    Groups, counters and keys are those of `_draw_whole`. Where `halves` (numbers,) is not 0 the density is that of the
    number times tanh of what is written, as `SquashedNormal` has it.
    """
    size = action.shape[1]
    words = np.zeros(4, np.uint64)
    row = 0
    for group in range(rows.shape[0]):
        for r in range(rows[group]):
            slot, density = uint64(first_slot) + uint64(r), np.float32(0)
            for j in range(size):
                mean, log_std = outputs[row, j], outputs[row, size + j]
                chosen = mean
                if not greedy[group]:
                    if j % 4 == 0:
                        words[0], words[1], words[2], words[3] = _words(
                            uint64(tick), slot, keys[group, 0], keys[group, 1] + uint64(j // 4)
                        )
                    chosen = mean + np.exp(log_std) * np.float32(_normal(words, j % 4))
                action[row, j] = chosen
                away = (chosen - mean) * np.exp(-log_std)
                density -= np.float32(0.5) * away * away + log_std + np.float32(0.5 * log(2.0 * pi))
                if halves[j] > 0:
                    far = abs(chosen)
                    slope = np.float32(log(2.0)) - far - np.log1p(np.exp(np.float32(-2) * far))
                    density -= np.float32(2) * slope + np.log(halves[j])
            log_prob[row] = density
            row += 1
