"""The compiled kernel plays the same games as the reference rules."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rattle.envs.snake import kernel
from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.snake.reference import SnakeWorld
from rattle.envs.snake.settings import SnakeSettings

TICKS = 120


@st.composite
def snake_settings(draw: st.DrawFn) -> SnakeSettings:
    """Draw small, crowded worlds, where everything that can happen happens soon."""
    num_snakes = draw(st.integers(1, 8))
    least = 4 if num_snakes == 1 else int((15 * (num_snakes - 1)) ** 0.5) + 1
    width = draw(st.integers(least, least + 6))
    height = draw(st.integers(least, least + 6))
    return SnakeSettings(
        width=width,
        height=height,
        num_snakes=num_snakes,
        food=draw(st.integers(1, max(1, min(12, width * height - 3 * num_snakes)))),
        vision_radius=draw(st.integers(1, 7)),
        max_steps_without_food=draw(st.sampled_from([0, 1, 7, 30])),
        max_steps=draw(st.sampled_from([0, 0, 5, 40])),
        ends_when=draw(st.sampled_from(["all", "any"])),
        rewards={"alive": 0.25, "eat_food": 1.0, "game_over": -2.0},
    )


def assert_same_games(config: SnakeSettings, num_worlds: int, seed: int, actions: np.ndarray[Any, Any]) -> None:
    snakes = config.num_snakes
    batch = SnakeWorlds(config, num_worlds, seed)
    plain = [SnakeWorld(config, seed, world) for world in range(num_worlds)]
    for action in actions:
        for world, game in enumerate(plain):
            rows = slice(world * snakes, (world + 1) * snakes)
            expected = [game.observe(snake) for snake in range(snakes)]
            np.testing.assert_array_equal(batch.observation[rows], expected)
            shown = batch.snapshot(world)
            assert shown["bodies"] == [[list(cell) for cell in snake.body] for snake in game.snakes]
            assert sorted(map(tuple, shown["food"])) == sorted(game.food)
        batch.step(action)
        for world, game in enumerate(plain):
            rows = slice(world * snakes, (world + 1) * snakes)
            result = game.step([int(a) for a in action[rows]])
            np.testing.assert_array_equal(batch.reward[rows], np.array(result.rewards, np.float32))
            assert batch.terminated[rows].tolist() == result.terminated
            assert batch.truncated[rows].tolist() == result.truncated
            ends = np.logical_or(result.terminated, result.truncated)
            eaten = np.array([snake.food_eaten for snake in game.snakes])
            np.testing.assert_array_equal(batch.final_metrics["food"][rows], np.where(ends, eaten, 0))
            if result.over:
                last = [game.observe(snake) for snake in range(snakes)]
                np.testing.assert_array_equal(batch.final_observation[rows], last)
                plain[world] = SnakeWorld(config, seed, world, game.episode + 1)
            alive = [snake.alive for snake in plain[world].snakes]
            assert batch.active[rows].tolist() == alive
            assert batch.metrics["food"][rows].tolist() == [snake.food_eaten for snake in plain[world].snakes]
            assert batch.episode[world] == plain[world].episode


@pytest.mark.whole(suite="slow")
@pytest.mark.integration
@settings(max_examples=60)
@given(
    config=snake_settings(), num_worlds=st.integers(1, 3), seed=st.integers(0, 2**64 - 1), play=st.integers(0, 2**32)
)
def test_kernel_equals_reference_over_random_games(
    config: SnakeSettings, num_worlds: int, seed: int, play: int
) -> None:
    slots = num_worlds * config.num_snakes
    # Mostly forward: snakes that turn at random bite themselves before anything else can happen.
    actions = np.random.default_rng(play).choice(3, size=(TICKS, slots), p=[0.7, 0.15, 0.15])
    assert_same_games(config, num_worlds, seed, actions)


def snake_that_fills_the_board(config: SnakeSettings, seed: int, ticks: int) -> tuple[int, int]:
    """Play one snake along a Hamiltonian cycle of the torus; return the worlds won and the longest food count."""
    world = SnakeWorlds(config, 1, seed)
    won = longest = 0
    for _ in range(ticks):
        shown = world.snapshot(0)
        (x, y), heading = shown["bodies"][0][0], shown["headings"][0]
        # West to east in every row; at the cell whose column has the row's number, south instead.
        wanted = 2 if (x + y) % config.width == config.width - 1 else 1
        turn = {0: 0, 1: 1, 3: 2}.get((wanted - heading) % 4, 1)
        world.step(np.array([turn]))
        won += int(world.truncated[0])
        longest = max(longest, int(world.final_metrics["food"][0]))
    return won, longest


def test_a_snake_that_fills_the_board_wins() -> None:
    config = SnakeSettings(width=5, height=5, vision_radius=2, max_steps_without_food=0)
    won, longest = snake_that_fills_the_board(config, seed=3, ticks=2500)
    assert won >= 1
    assert longest == 25 - 3


def history_hash(config: SnakeSettings, num_worlds: int, first_world: int = 0, watch: slice = slice(None)) -> str:
    """Hash everything that a fixed play of 300 ticks hands out for the watched worlds."""
    batch = SnakeWorlds(config, num_worlds, seed=7, first_world=first_world)
    digest = hashlib.sha256()
    snakes = config.num_snakes
    for tick in range(300):
        world = np.arange(first_world, first_world + num_worlds).repeat(snakes)
        slot = np.arange(num_worlds * snakes) % snakes
        batch.step(((world * 31 + slot * 17 + tick * 7) // 5 % 7 % 3).astype(np.int64))
        for array in (batch.observation, batch.reward, batch.terminated, batch.truncated, batch.active):
            digest.update(array.reshape(num_worlds, -1)[watch].tobytes())
    return digest.hexdigest()[:16]


GOLDEN = {1: "1ca68769399c70d7", 2: "3f3e109764a5bddf", 4: "ca97c6070747f73e", 8: "e273255cf6eb53a5"}


@pytest.mark.parametrize("num_snakes", GOLDEN)
def test_golden_histories(num_snakes: int) -> None:
    assert history_hash(SnakeSettings(num_snakes=num_snakes, food=num_snakes), 16) == GOLDEN[num_snakes]


@pytest.mark.parametrize("num_snakes", [1, 3])
def test_a_world_is_the_same_game_at_any_batch_width(num_snakes: int) -> None:
    config = SnakeSettings(num_snakes=num_snakes)
    alone = history_hash(config, 1, first_world=5)
    assert alone == history_hash(config, 8, watch=slice(5, 6))
    assert alone == history_hash(config, 4, first_world=3, watch=slice(2, 3))


@settings(max_examples=20)
@given(config=snake_settings(), ticks=st.integers(0, 60))
def test_restored_worlds_continue_the_same_game(config: SnakeSettings, ticks: int) -> None:
    actions = np.random.default_rng(ticks).integers(0, 3, size=(ticks + 40, 3 * config.num_snakes))
    original = SnakeWorlds(config, 3, seed=11)
    for action in actions[:ticks]:
        original.step(action)
    copy = SnakeWorlds(config, 3, seed=99)
    copy.restore(original.state())
    for action in actions[ticks:]:
        np.testing.assert_array_equal(copy.observation, original.observation)
        np.testing.assert_array_equal(copy.active, original.active)
        original.step(action)
        copy.step(action)
        np.testing.assert_array_equal(copy.reward, original.reward)


def test_actions_in_any_array_play_the_same_game_by_the_same_compiled_code() -> None:
    worlds, other = (SnakeWorlds(SnakeSettings(), 4, 0) for _ in range(2))
    actions = np.arange(4) % 3
    worlds.step(actions)
    other.step(actions)
    compiled = list(kernel.step.signatures)
    received = np.frombuffer(actions.astype(np.uint8).tobytes(), np.uint8)  # may not be written
    for array in (received, actions.astype(np.uint32), np.repeat(actions, 2)[::2], actions.astype(np.int16)):
        worlds.step(array)
        other.step(actions)
        np.testing.assert_array_equal(worlds.observation, other.observation)
    assert kernel.step.signatures == compiled
