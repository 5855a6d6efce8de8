"""What a policy may see of its own past, as well as an observation: one table that widths, state and docs follow.

The actor keeps it in the first columns of a slot's memory, with zeros where an episode begins. It writes the action
there (`OwnLayout.acted`), then adds the reward (`rewarded`); the next tick takes both in. So nobody has to count, and
all that a policy sees follows from its actions and rewards.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache
from math import prod
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from rattle.samples.spaces import Actions

Name = TypeVar("Name")
OwnInput = Literal["last_action", "last_reward", "ticks_since_reward", "ticks_since_turn"]
Column = Literal["reward", "since_reward", "action", "previous_action", "since_turn"]

#: Ticks t are shown as t / (t + HALF): from 0 to 1, and a half after so many.
HALF = 8


class Described(NamedTuple):
    """One of the inputs."""

    columns: tuple[Column, ...]  # of the state, that it is made of
    meaning: str


#: All inputs, in the order in which a network takes them.
OWN_INPUTS: dict[OwnInput, Described] = {
    "last_action": Described(
        ("action",),
        "the last action: whole numbers one-hot, zeros where there is none; real numbers between two bounds from -1 to "
        "1, others x as x / (1 + abs(x)), and where there is none what 0 is shown as",
    ),
    "last_reward": Described(("reward", "since_reward"), "the reward r of the last tick as r / (1 + abs(r))"),
    "ticks_since_reward": Described(
        ("reward", "since_reward"),
        f"t / (t + {HALF}) of the ticks since a reward that was not 0, or since the episode's beginning",
    ),
    "ticks_since_turn": Described(
        ("action", "previous_action", "since_turn"),
        f"t / (t + {HALF}) of the ticks since an action that differed from the one before, or since the beginning",
    ),
}
#: All columns, in their order in the state.
COLUMNS: dict[Column, str] = {
    "reward": "what the last tick has brought; who knows it adds it here",
    "since_reward": "ticks since a reward; without the reward of that tick",
    "action": "the last action as it is handed to an environment, whole numbers with 1 added; who acts writes it here",
    "previous_action": "the action before that",
    "since_turn": "ticks since a turn; the last action is not taken in yet",
}
_OF_ACTIONS = ("action", "previous_action")


def _in_order(inputs: Iterable[OwnInput]) -> tuple[OwnInput, ...]:
    """Return inputs in the order of the table; the same ones make the same policy, in whatever order they are given."""
    given = list(inputs)
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} is given twice")
    return tuple(name for name in OWN_INPUTS if name in given)


#: Names of inputs, none twice.
OwnInputs = Annotated[tuple[OwnInput, ...], AfterValidator(_in_order)]


def refusal(inputs: Iterable[OwnInput], actions: Actions) -> str | None:
    """Say why some inputs cannot be had of actions; None where all can."""
    if "ticks_since_turn" in inputs and not actions.choices:
        return "ticks_since_turn counts from when a whole number changed, and actions are real numbers here"
    return None


class OwnLayout:
    """Where each input, and each column of the state that they are made of, is; the columns come first in a state.

    States are (N, S) float32; None in place of one: nothing is remembered.
    """

    def __init__(self, inputs: tuple[OwnInput, ...], actions: Actions) -> None:
        self.inputs, self.actions = inputs, actions

    @cached_property
    def columns(self) -> dict[Column, slice]:
        """Return which columns of the state are whose."""
        used = {column for name in self.inputs for column in OWN_INPUTS[name].columns}
        numbers = prod(self.actions.shape)
        return _side_by_side({name: numbers if name in _OF_ACTIONS else 1 for name in COLUMNS if name in used})

    @cached_property
    def places(self) -> dict[OwnInput, slice]:
        """Return which inputs are whose."""
        shown = sum(self.actions.choices) or prod(self.actions.shape)
        return _side_by_side({name: shown if name == "last_action" else 1 for name in self.inputs})

    @cached_property
    def size(self) -> int:
        """Return how many columns of the state there are."""
        return max((place.stop for place in self.columns.values()), default=0)

    @cached_property
    def width(self) -> int:
        """Return how many inputs there are."""
        return max((place.stop for place in self.places.values()), default=0)

    def numbers(self, action: NDArray[Any]) -> NDArray[np.float32]:
        """Return actions (N, ...) as a state holds them, (N, numbers)."""
        handed_over = self.actions.bound(action).reshape(len(action), -1).astype(np.float32)
        return handed_over + np.float32(1) if self.actions.choices else handed_over

    def acted(self, state: NDArray[np.float32] | None, action: NDArray[Any]) -> None:
        """Write actions (N, ...) that were chosen into a state."""
        column = self.columns.get("action")
        if column is not None and state is not None:
            state[:, column] = self.numbers(action)

    def rewarded(self, state: NDArray[np.float32] | None, reward: NDArray[np.float32]) -> None:
        """Add rewards (N,), of the last tick or while the slot waits; nothing where none has acted in the episode."""
        if "reward" in self.columns and state is not None:
            has_acted = state[:, self.columns["since_reward"].start] > 0
            state[:, self.columns["reward"].start] += np.where(has_acted, reward, np.float32(0))


@lru_cache(maxsize=64)
def own_layout(inputs: tuple[OwnInput, ...], actions: Actions) -> OwnLayout:
    """Return the layout of some inputs, the same one each time."""
    return OwnLayout(inputs, actions)


def _side_by_side(widths: dict[Name, int]) -> dict[Name, slice]:
    places: dict[Name, slice] = {}
    first = 0
    for name, width in widths.items():
        places[name] = slice(first, first + width)
        first += width
    return places
