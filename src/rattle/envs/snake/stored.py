"""Stored snake worlds are looked through before compiled code, which checks nothing, plays on in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.snake import kernel
from rattle.envs.snake.settings import START_LENGTH

Bools = NDArray[np.bool_]


def check_arrays(state: Mapping[str, NDArray[Any]], own: Mapping[str, NDArray[Any]]) -> None:
    """Raise EnvError unless `state` has every array of `own` in the same shape and type, and the same first world."""
    for name, array in own.items():
        stored = state.get(name)
        if not isinstance(stored, np.ndarray) or stored.shape != array.shape or stored.dtype != array.dtype:
            raise EnvError(f"the stored snake worlds do not fit these settings: '{name}' is missing or another array")
    first, own_first = int(state["first_world"][0]), int(own["first_world"][0])
    if first != own_first:
        raise EnvError(f"the stored snake worlds are numbered from {first}, these from {own_first}")


def check_worlds(worlds: kernel.BoardState, active: Bools, rules: kernel.Rules, copies: NDArray[np.int32]) -> None:
    """Raise EnvError unless the worlds could have been played: all numbers in their ranges, bodies as on the board."""
    _check_numbers(worlds, rules)
    living = worlds.agent["alive"] == 1
    # A byte that is no bool would not equal itself in compiled code.
    _require(np.array_equal(active.view(np.uint8), living.view(np.uint8)), "'active' contradicts who is alive")
    _check_board(worlds, living, rules, copies)


def _check_numbers(worlds: kernel.BoardState, rules: kernel.Rules) -> None:
    world, agent = worlds.world, worlds.agent
    _require_between(world["tick"], 0, None, "a tick")
    _require_between(world["food"], 0, rules.food, "an amount of food")
    _require_between(agent["head"], 0, rules.cells - 1, "a head")
    _require_between(agent["heading"], 0, 3, "a heading")
    _require_between(agent["length"], 0, rules.cells, "a length")
    _require_between(agent["ring_head"], 0, rules.cells - 1, "a ring's head")
    for name in ("hunger", "food_eaten"):
        _require_between(agent[name], 0, None, f"'{name}'")
    for name in ("alive", "ate", "dies"):
        _require_between(agent[name], 0, 1, f"'{name}'")
    _require_between(worlds.ring, 0, rules.cells - 1, "a body's cell")
    _require_between(agent["length"][agent["alive"] == 1], START_LENGTH, None, "the length of a living snake")


def _check_board(worlds: kernel.BoardState, living: Bools, rules: kernel.Rules, copies: NDArray[np.int32]) -> None:
    """Hold the boards, margins included, to the bodies and the amounts of food."""
    bodies = _draw_bodies(worlds, living, rules)
    board = worlds.board[:, copies[:, 0]]
    is_food = board == kernel.FOOD
    _require(np.array_equal(np.where(is_food, 0, board), bodies), "a board does not show the bodies")
    _require(np.array_equal(is_food.sum(axis=1), worlds.world["food"]), "a board does not show the amount of food")
    cell_at = np.zeros(worlds.board.shape[1], np.int64)
    cell_at[copies] = np.arange(rules.cells)[:, None]
    _require(np.array_equal(worlds.board, board[:, cell_at]), "a board's margin does not repeat its edges")


def _draw_bodies(worlds: kernel.BoardState, living: Bools, rules: kernel.Rules) -> NDArray[np.uint8]:
    """Return uint8 (W, cells): boards with the bodies of the living only; raises EnvError where they overlap."""
    slots = living.nonzero()[0]
    lengths = worlds.agent["length"][slots].astype(np.int64)
    slot = slots.repeat(lengths)
    back = np.arange(len(slot)) - (lengths.cumsum() - lengths).repeat(lengths)
    cell = worlds.ring[slot, (worlds.agent["ring_head"][slot] - back) % rules.cells]
    _require(np.array_equal(cell[back == 0], worlds.agent["head"][slots]), "a head is not where its body begins")
    world, snake = np.divmod(slot, rules.num_snakes)
    bodies = np.zeros((len(worlds.world), rules.cells), np.uint8)
    bodies[world, cell] = kernel.FIRST_BODY + 2 * snake + ((back == 0) & (rules.num_snakes > 1))
    _require(np.count_nonzero(bodies) == len(slot), "bodies overlap")
    return bodies


def _require_between(values: NDArray[Any], least: int, most: int | None, what: str) -> None:
    within = values.size == 0 or (values.min() >= least and (most is None or values.max() <= most))
    _require(bool(within), f"{what} is out of range")


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise EnvError(f"the stored snake worlds are damaged: {complaint}")
