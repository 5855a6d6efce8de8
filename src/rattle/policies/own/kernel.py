"""How what a policy sees of its own past follows from its state, in compiled code, a row at a time."""

from __future__ import annotations

import numpy as np
from numba import njit

from rattle.envs.compiled import compiled
from rattle.policies.own.inputs import HALF

_HALF = np.float32(HALF)


@njit(inline="always")
def _see(state, columns, places, choices, middles, halves, found):
    """Write what `OwnPast.see` returns; whatever the state holds, no other number is read or written."""
    reward, since_reward, action, previous, since_turn = columns
    shows_action, shows_reward, shows_since_reward, shows_since_turn = places
    numbers = max(choices.shape[0], halves.shape[0])
    zero, one = np.float32(0), np.float32(1)
    for row in range(state.shape[0]):
        if reward >= 0:
            came = state[row, reward]
            ticks = zero if came != zero else max(state[row, since_reward], zero)
            if shows_reward >= 0:
                found[row, shows_reward] = came / (one + abs(came))
            if shows_since_reward >= 0:
                found[row, shows_since_reward] = ticks / (ticks + _HALF)
            state[row, reward] = zero
            state[row, since_reward] = ticks + one
        if since_turn >= 0:
            turned = False
            for j in range(numbers):
                now, before = state[row, action + j], state[row, previous + j]
                turned |= now != zero and before != zero and now != before
                state[row, previous + j] = now
            ticks = zero if turned else max(state[row, since_turn], zero)
            found[row, shows_since_turn] = ticks / (ticks + _HALF)
            state[row, since_turn] = ticks + one
        if action >= 0:
            first = shows_action
            for j in range(numbers):
                done = state[row, action + j]
                state[row, action + j] = zero
                if shows_action < 0:
                    continue
                if j < choices.shape[0]:
                    if one <= done <= np.float32(choices[j]):
                        found[row, first + int(done) - 1] = one
                    first += choices[j]
                elif halves[j] > zero:
                    found[row, shows_action + j] = min(max((done - middles[j]) / halves[j], -one), one)
                else:
                    found[row, shows_action + j] = done / (one + abs(done))


@compiled
def see(state, columns, places, choices, middles, halves, found):
    """Write what `OwnPast.see` returns."""
    _see(state, columns, places, choices, middles, halves, found)


@compiled
def replay(state, columns, places, choices, middles, halves, numbers, reward, starts, found):
    """Write what is seen in each tick (T, N, width), of actions as the state holds them (T, N, numbers) and rewards.

    What `OwnLayout.acted` and `rewarded` do between two ticks is done here.
    """
    for tick in range(starts.shape[0]):
        for row in range(starts.shape[1]):
            if starts[tick, row]:
                state[row] = np.float32(0)
        _see(state, columns, places, choices, middles, halves, found[tick])
        for row in range(starts.shape[1]):
            if columns[2] >= 0:
                for j in range(numbers.shape[2]):
                    state[row, columns[2] + j] = numbers[tick, row, j]
            if columns[0] >= 0 and state[row, columns[1]] > np.float32(0):
                state[row, columns[0]] += reward[tick, row]
