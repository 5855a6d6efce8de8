"""Stored snake worlds that are damaged are refused, and what is accepted can be played."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.snake import kernel
from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.snake.settings import SnakeSettings

State = dict[str, NDArray[Any]]


def played(num_snakes: int, ticks: int, **arguments: Any) -> SnakeWorlds:
    """Return three worlds in mid-game."""
    config = SnakeSettings(width=8, height=9, num_snakes=num_snakes, food=6, vision_radius=3)
    worlds = SnakeWorlds(config, 3, seed=5, **arguments)
    play_on(worlds, ticks)
    return worlds


def play_on(worlds: SnakeWorlds, ticks: int) -> None:
    actions = np.random.default_rng(ticks).choice(3, size=(ticks, worlds.num_slots), p=[0.7, 0.15, 0.15])
    for action in actions:
        worlds.step(action)


def assert_possible(state: Mapping[str, NDArray[Any]], worlds: SnakeWorlds) -> None:
    """Hold every number by which compiled code addresses memory to its bounds."""
    agent = state["agent"].view(kernel.AGENT_DTYPE)
    cells = worlds.settings.width * worlds.settings.height
    for name, most in (("head", cells), ("heading", 4), ("length", cells + 1), ("ring_head", cells), ("alive", 2)):
        assert ((agent[name] >= 0) & (agent[name] < most)).all(), name
    assert (state["ring"].view(np.uint16) < cells).all()
    assert state["board"].max() < 2 + 2 * worlds.settings.num_snakes
    assert (worlds.observation < worlds.spec.observation_space.codes).all()  # type: ignore[union-attr]


def same_state(one: State, other: State) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


@settings(max_examples=300)
@given(
    num_snakes=st.sampled_from([1, 3]),
    ticks=st.integers(0, 40),
    name=st.sampled_from(["seed", "first_world", "active", "world", "agent", "board", "ring"]),
    flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=3),
)
def test_damaged_bytes_are_refused_or_harmless(
    num_snakes: int, ticks: int, name: str, flips: list[tuple[int, int]]
) -> None:
    state = played(num_snakes, ticks).state()
    data = state[name].view(np.uint8)
    for place, bits in flips:
        data[place % len(data.ravel()) if data.ndim == 1 else np.unravel_index(place % data.size, data.shape)] ^= bits
    worlds = played(num_snakes, 3)
    before, seen = worlds.state(), worlds.observation.copy()
    try:
        worlds.restore(state)
    except EnvError:
        assert same_state(worlds.state(), before)
        assert np.array_equal(worlds.observation, seen)
    for _ in range(50):
        assert_possible(worlds.state(), worlds)
        play_on(worlds, 1)


def set_agent(field: str, value: int) -> Callable[[State], None]:
    def damage(state: State) -> None:
        state["agent"].view(kernel.AGENT_DTYPE)[field][1] = value

    return damage


def set_world(field: str, value: int) -> Callable[[State], None]:
    def damage(state: State) -> None:
        state["world"].view(kernel.WORLD_DTYPE)[field][1] = value

    return damage


def set_array(name: str, value: NDArray[Any] | None) -> Callable[[State], None]:
    def damage(state: State) -> None:
        if value is None:
            del state[name]
        else:
            state[name] = value

    return damage


def fill(name: str, value: int) -> Callable[[State], None]:
    def damage(state: State) -> None:
        state[name].fill(value)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (set_agent("head", 72), "a head is out of range"),
        (set_agent("head", -1), "a head is out of range"),
        (set_agent("heading", 4), "a heading is out of range"),
        (set_agent("length", 73), "a length is out of range"),
        (set_agent("length", 0), "the length of a living snake is out of range"),
        (set_agent("length", 40), "damaged"),
        (set_agent("ring_head", 72), "a ring's head is out of range"),
        (set_agent("ring_head", 50), "a head is not where its body begins"),
        (set_agent("hunger", -1), "'hunger' is out of range"),
        (set_agent("food_eaten", -1), "'food_eaten' is out of range"),
        (set_agent("alive", 2), "'alive' is out of range"),
        (set_agent("alive", 0), "'active' contradicts who is alive"),
        (set_agent("ate", 7), "'ate' is out of range"),
        (set_agent("dies", -7), "'dies' is out of range"),
        (set_world("tick", -1), "a tick is out of range"),
        (set_world("food", 7), "an amount of food is out of range"),
        (set_world("food", 5), "a board does not show the amount of food"),
        (fill("ring", 255), "a body's cell is out of range"),
        (fill("ring", 0), "damaged"),
        (fill("board", 4), "a board does not show the bodies"),
        (fill("active", False), "'active' contradicts who is alive"),
        (set_array("active", np.ones(9, np.uint8)), "'active' is missing or another array"),
        (set_array("active", np.ones(8, np.bool_)), "'active' is missing or another array"),
        (set_array("seed", np.zeros(0, np.uint64)), "'seed' is missing or another array"),
        (set_array("ring", None), "'ring' is missing or another array"),
        (set_array("first_world", np.array([4], np.uint64)), "numbered from 4, these from 0"),
    ],
)
def test_damage_is_named(damage: Callable[[State], None], message: str) -> None:
    worlds = played(num_snakes=3, ticks=0)
    state = worlds.state()
    damage(state)
    before = worlds.state()
    with pytest.raises(EnvError, match=message) as caught:
        worlds.restore(state)
    assert "\n" not in str(caught.value)
    assert same_state(worlds.state(), before)


def test_a_margin_that_differs_from_its_edge_is_refused() -> None:
    worlds = played(num_snakes=1, ticks=0)
    state = worlds.state()
    state["board"][:, 0] ^= 1
    with pytest.raises(EnvError, match="margin"):
        worlds.restore(state)


def test_worlds_of_another_number_are_refused() -> None:
    with pytest.raises(EnvError, match="numbered from 3, these from 0"):
        played(num_snakes=1, ticks=0).restore(played(num_snakes=1, ticks=5, first_world=3).state())
