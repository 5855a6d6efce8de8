"""A world that snakes enter and leave plays by the readable rules, and sees what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.envs.errors import EnvError
from rattle.envs.snake.open_world import OpenWorld
from rattle.envs.snake.reference import SnakeWorld
from rattle.envs.snake.settings import SnakeSettings


@st.composite
def open_worlds(draw: st.DrawFn) -> OpenWorld:
    """Draw worlds from tiny ones, where the window wraps, to ones with room for twenty snakes."""
    capacity = draw(st.sampled_from([1, 1, 2, 4, 20]))
    least = max(4, int((15 * (capacity - 1)) ** 0.5) + 1)
    width, height = (draw(st.integers(least, least + 5)) for _ in range(2))
    config = SnakeSettings(
        width=width,
        height=height,
        food=draw(st.integers(1, min(9, width * height - 3 * capacity))),
        vision_radius=draw(st.integers(1, 9)),
        max_steps_without_food=draw(st.sampled_from([0, 10, 40])),
    )
    return OpenWorld(config, draw(st.integers(0, 2**64 - 1)), capacity=capacity)


def assert_sees_what_the_rules_say(world: OpenWorld) -> None:
    if world.ids:
        expected = [world.observe(place) for place in range(len(world.ids))]
        np.testing.assert_array_equal(world.codes(world.ids), expected)
        np.testing.assert_array_equal(world.codes(world.ids[-1:])[0], expected[-1])
        assert world.codes(world.ids).dtype == np.uint8


def assert_nothing_overlaps(world: OpenWorld) -> None:
    taken = [*world.food, *(cell for snake in world.snakes for cell in snake.body)]
    assert len(set(taken)) == len(taken)


@pytest.mark.integration
@settings(max_examples=40)
@given(world=open_worlds(), play=st.integers(0, 2**32))
def test_all_see_what_the_readable_rules_say_while_snakes_come_and_go(world: OpenWorld, play: int) -> None:
    rng = np.random.default_rng(play)
    for tick in range(40):
        for number in range(rng.integers(0, 4)):
            before = [list(snake.body) for snake in world.snakes]
            joined = world.join(f"{tick}-{number}")
            assert [list(snake.body) for snake in world.snakes][: len(before)] == before
            assert len(world.snakes) == len(before) + joined <= world.capacity
            assert_sees_what_the_rules_say(world)
        if world.ids and rng.random() < 0.2:
            world.leave(world.ids[rng.integers(len(world.ids))])
        assert_sees_what_the_rules_say(world)
        assert_nothing_overlaps(world)
        before_tick = list(world.ids)
        moves = {snake_id: int(rng.choice(3, p=[0.7, 0.15, 0.15])) for snake_id in before_tick}
        result = world.advance(moves)
        assert list(result.rewards) == before_tick
        assert sorted([*world.ids, *result.died]) == sorted(before_tick)
        assert_sees_what_the_rules_say(world)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**64 - 1), episode=st.integers(0, 3), play=st.integers(0, 2**32))
def test_a_snake_alone_has_the_very_game_of_the_readable_rules(seed: int, episode: int, play: int) -> None:
    config = SnakeSettings(width=7, height=6, food=3, max_steps=50)
    plain, world = SnakeWorld(config, seed, episode=episode), OpenWorld(config, seed, episode)
    assert world.join("anna")
    over = False
    while not over:
        assert (world.snakes, world.food, world.tick) == (plain.snakes, plain.food, plain.tick)
        action = int(np.random.default_rng((play, plain.tick)).choice(3, p=[0.6, 0.2, 0.2]))
        expected = plain.step([action])
        result = world.advance({"anna": action})
        assert result.rewards == {"anna": expected.rewards[0]}
        assert result.died == ({} if plain.snakes[0].alive else {"anna": 3 + plain.snakes[0].food_eaten})
        over = result.over
        assert over == expected.over


def test_a_new_snake_lies_on_empty_cells_and_nobody_faces_a_body() -> None:
    config = SnakeSettings(width=18, height=18, food=40)
    for seed in range(30):
        world = OpenWorld(config, seed, capacity=20)
        while len(world.ids) < 20 and world.join(f"{len(world.ids)}"):
            snake = world.snakes[-1]
            (x, y), *_ = snake.body
            assert all((x, y) != cell for cell in world.food)
            others = {cell for other in world.snakes for cell in other.body}
            ahead = {world._ahead(other.body[0], other.heading) for other in world.snakes}
            assert not ahead & others
        assert len(world.ids) >= 10
        assert_nothing_overlaps(world)


def test_a_board_without_room_takes_nobody_in() -> None:
    world = OpenWorld(SnakeSettings(width=5, height=5, food=1, max_steps_without_food=0), 1, capacity=2)
    assert world.join("anna")
    world.food |= {(x, y) for x in range(5) for y in range(5)} - set(world.snakes[0].body)
    world.advance({})
    assert not world.join("ben")
    assert world.ids == ["anna"]


def test_no_more_than_the_capacity_come_in_and_a_leaver_makes_room() -> None:
    world = OpenWorld(SnakeSettings(width=12, height=12), 1, capacity=2)
    assert world.join("anna")
    assert world.join("ben")
    assert not world.join("carl")
    world.leave("anna")
    assert world.join("carl")
    assert world.ids == ["ben", "carl"]
    with pytest.raises(EnvError, match="'ben' is in this world already"):
        world.join("ben")


@pytest.mark.parametrize(("side", "food", "capacity"), [(4, 1, 3), (15, 1, 17), (128, 1, 1094), (4, 12, 2), (9, 1, 0)])
def test_a_board_too_small_for_its_capacity_is_refused(side: int, food: int, capacity: int) -> None:
    with pytest.raises(EnvError, match="room for"):
        OpenWorld(SnakeSettings(width=side, height=side, food=food), 1, capacity=capacity)


def test_a_large_board_holds_a_thousand() -> None:
    world = OpenWorld(SnakeSettings(width=128, height=128, food=200), 1, capacity=1093)
    for number in range(1093):
        assert world.join(str(number))
    for _ in range(5):
        world.advance({})
    codes = world.codes(world.ids)
    assert codes.shape == (len(world.ids), 60)
    for place in range(0, len(world.ids), 97):
        np.testing.assert_array_equal(codes[place], world.observe(place))
