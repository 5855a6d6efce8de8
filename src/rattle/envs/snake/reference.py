"""The rules of Snake, written to be read: one world, plain Python, no arrays on the hot path.

This is the normative statement; `kernel.py` plays the same games and is held to this file by property tests.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rattle.envs.philox import philox_words
from rattle.envs.seeds import split_seed
from rattle.envs.snake.geometry import HEADINGS, TURNS, Cell, all_cells, to_world, visible_offsets
from rattle.envs.snake.settings import START_LENGTH, SnakeSettings

Position = tuple[int, int]


class WorldRandom:
    """Uniform whole numbers keyed by (seed, world, episode) and counted from 0."""

    def __init__(self, seed: int, world: int, episode: int) -> None:
        self._key = split_seed(seed)
        self._world = world
        self._episode = episode
        self._draws = 0

    def below(self, n: int) -> int:
        """Draw uniformly from 0..n-1 (Lemire, "Fast Random Integer Generation in an Interval", 2019)."""
        while True:
            counter = (self._draws, self._episode, self._world & 0xFFFFFFFF, self._world >> 32)
            product = self._word(counter, self._key) * n
            self._draws += 1
            if product & 0xFFFFFFFF >= (2**32 - n) % n:
                return product >> 32

    def _word(self, counter: tuple[int, int, int, int], key: tuple[int, int]) -> int:
        return philox_words(counter, key)[0]


@dataclass
class Snake:
    """One snake: `body[0]` is its head."""

    body: deque[Position]
    heading: int
    alive: bool = True
    hunger: int = 0
    food_eaten: int = 0


@dataclass
class TickResult:
    """What a tick gave every snake; all lists have one entry a snake."""

    rewards: list[float]
    terminated: list[bool]
    truncated: list[bool]
    over: bool


@dataclass
class SnakeWorld:
    """One episode of one world."""

    settings: SnakeSettings
    seed: int
    world: int = 0
    episode: int = 0
    tick: int = 0
    snakes: list[Snake] = field(default_factory=list)
    food: set[Position] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._random = WorldRandom(self.seed, self.world, self.episode)
        self._populate()

    def _populate(self) -> None:
        for _ in range(self.settings.num_snakes):
            self.snakes.append(self._new_snake())
        self._restock_food()

    def step(self, actions: list[int]) -> TickResult:
        """Advance one tick; actions of dead snakes are ignored."""
        self.tick += 1
        living = [snake for snake in self.snakes if snake.alive]
        was_alive = [snake.alive for snake in self.snakes]

        for snake, action in zip(self.snakes, actions, strict=True):
            if snake.alive:
                snake.heading = (snake.heading + TURNS[action]) % 4
        new_heads = {id(snake): self._ahead(snake.body[0], snake.heading) for snake in living}

        ate = {id(snake) for snake in living if new_heads[id(snake)] in self.food}
        self.food -= set(new_heads.values())
        for snake in living:
            if id(snake) in ate:
                snake.hunger = 0
                snake.food_eaten += 1
            else:
                snake.hunger += 1
                snake.body.pop()

        bodies = {cell for snake in living for cell in snake.body}
        heads_on = Counter(new_heads.values())
        for snake in living:
            head = new_heads[id(snake)]
            starved = 0 < self.settings.max_steps_without_food <= snake.hunger
            if head in bodies or heads_on[head] > 1 or starved:
                snake.alive = False
            snake.body.appendleft(head)
        for snake in living:
            if not snake.alive:
                snake.body.clear()

        won = not self._restock_food()
        alive = [snake.alive for snake in self.snakes]
        all_dead = not any(alive)
        ended = all_dead or (self.settings.ends_when == "any" and not all(alive))
        timed_out = 0 < self.settings.max_steps <= self.tick
        pay = self.settings.rewards
        return TickResult(
            rewards=[
                pay.alive * snake.alive + pay.eat_food * (id(snake) in ate) + pay.game_over * (not snake.alive)
                if before
                else 0.0
                for snake, before in zip(self.snakes, was_alive, strict=True)
            ],
            terminated=[before and (ended or not now) for before, now in zip(was_alive, alive, strict=True)],
            truncated=[now and not ended and (won or timed_out) for now in alive],
            over=ended or won or timed_out,
        )

    def observe(self, viewer: int) -> NDArray[np.uint8]:
        """Return uint8 (cells,): what a snake sees, its heading up; a dead snake sees nothing (all zero)."""
        me = self.snakes[viewer]
        if not me.alive:
            return np.zeros(len(visible_offsets(self.settings.vision_radius)), np.uint8)
        x, y = me.body[0]
        turned = (to_world(me.heading, *offset) for offset in visible_offsets(self.settings.vision_radius))
        return np.array([self._seen(self._wrap(x + dx, y + dy), viewer) for dx, dy in turned], np.uint8)

    def _seen(self, cell: Position, viewer: int) -> Cell:
        if cell in self.food:
            return Cell.FOOD
        for number, snake in enumerate(self.snakes):
            if cell in snake.body:
                if number == viewer:
                    return Cell.BODY  # also its own head, where a small torus shows it again
                return Cell.OTHER_HEAD if cell == snake.body[0] else Cell.OTHER_BODY
        return Cell.EMPTY

    def _wrap(self, x: int, y: int) -> Position:
        return x % self.settings.width, y % self.settings.height

    def _ahead(self, cell: Position, heading: int) -> Position:
        dx, dy = HEADINGS[heading]
        return self._wrap(cell[0] + dx, cell[1] + dy)

    def _new_snake(self) -> Snake:
        """Place a straight snake on empty cells so that neither it nor an earlier snake faces a body."""
        taken = {cell for snake in self.snakes for cell in snake.body}
        faced = {self._ahead(snake.body[0], snake.heading) for snake in self.snakes}
        while True:
            snake = self._draw_snake()
            if self._has_room(snake, taken, faced):
                return snake

    def _draw_snake(self) -> Snake:
        """Draw a straight snake uniformly from all ways to lie on the board, whatever lies there."""
        way = self._random.below(4 * self.settings.width * self.settings.height)
        row, x = divmod(way // 4, self.settings.width)
        heading = way % 4
        body = deque([(x, row)])
        while len(body) < START_LENGTH:
            body.append(self._ahead(body[-1], (heading + 2) % 4))
        return Snake(body, heading)

    def _has_room(self, snake: Snake, taken: set[Position], faced: set[Position]) -> bool:
        """Say whether a new snake covers and faces no taken cell, and covers none that another snake faces."""
        room = {*snake.body, self._ahead(snake.body[0], snake.heading)}
        return taken.isdisjoint(room) and faced.isdisjoint(snake.body)

    def _restock_food(self) -> bool:
        """Put missing food on empty cells, drawn uniformly; False when no empty cell is left for it."""
        missing = self.settings.food - len(self.food)
        if missing <= 0:
            return True
        taken = self.food.union(*(snake.body for snake in self.snakes))
        empty = [cell for cell in all_cells(self.settings.width, self.settings.height) if cell not in taken]
        for _ in range(missing):
            if not empty:
                return False
            self.food.add(empty.pop(self._random.below(len(empty))))
        return True
