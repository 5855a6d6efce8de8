"""A snake world that snakes enter and leave while it runs, each known by a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from rattle.envs.compiled import compiled
from rattle.envs.errors import EnvError
from rattle.envs.philox import philox
from rattle.envs.snake.geometry import Cell, to_world, visible_offsets
from rattle.envs.snake.reference import Position, Snake, SnakeWorld, WorldRandom
from rattle.envs.snake.settings import START_LENGTH, SnakeSettings

MAX_CAPACITY = 4096
#: Draws after which the board counts as having no room for another snake.
PLACING_DRAWS = 256
#: A placed snake rules out the ways to place another that 15 cells have; see `SnakeSettings`.
_CELLS_RULED_OUT_BY_A_SNAKE = 15

_FOOD = 1
_FIRST_BODY = 2  # snake n is 2 + 2n where its body lies and 3 + 2n where its head is


@compiled
def _first_word(c0: int, c1: int, c2: int, c3: int, k0: int, k1: int) -> int:
    word: int = philox(uint64(c0), uint64(c1), uint64(c2), uint64(c3), uint64(k0), uint64(k1))[0]
    return word


class _QuickRandom(WorldRandom):
    """The same numbers from compiled code: a crowded board draws thousands a second."""

    def _word(self, counter: tuple[int, int, int, int], key: tuple[int, int]) -> int:
        return int(_first_word(*counter, *key))


@dataclass(frozen=True)
class OpenTick:
    """What a tick gave the snakes that lived before it."""

    rewards: dict[str, float]
    #: The dead, with the length that each came to.
    died: dict[str, int]
    #: The world has ended, for those still alive too.
    over: bool


class OpenWorld(SnakeWorld):
    """One episode of world 0 of a seed, empty at first; `settings.num_snakes` is not looked at.

    Food is laid when the first snake has joined: a snake that plays alone has the very game that it has in
    `SnakeWorld`. `advance` takes the place of `step`.
    """

    def __init__(self, settings: SnakeSettings, seed: int, episode: int = 0, capacity: int = 1) -> None:
        check_capacity(settings, capacity)
        self.capacity = capacity
        self.ids: list[str] = []  # of `snakes`, in the same order
        radius = settings.vision_radius
        offsets = np.array([[to_world(heading, *seen) for seen in visible_offsets(radius)] for heading in range(4)])
        # Where an offset from a head leads: rows and columns go round, and are looked up `radius` further on.
        self._dx: NDArray[np.intp] = offsets[:, :, 0] + radius
        self._dy: NDArray[np.intp] = offsets[:, :, 1] + radius
        self._column: NDArray[np.intp] = np.arange(-radius, settings.width + radius) % settings.width
        self._row: NDArray[np.intp] = np.arange(-radius, settings.height + radius) % settings.height * settings.width
        self._board: NDArray[np.int32] = np.zeros((settings.height, settings.width), np.int32)
        self._board_is_true = True
        self._faced: set[Position] | None = set()
        self._numbers: dict[str, int] = {}  # of the snakes on the board as it is drawn
        self._next_number = 0
        self._named: dict[str, Snake] = {}
        super().__init__(settings, seed, episode=episode)

    def join(self, snake_id: str) -> bool:
        """Place a new snake as the rules say; False when the world is full or no place for it was found."""
        if snake_id in self._named:
            raise EnvError(f"snake {snake_id!r} is in this world already: let it leave first")
        if len(self.snakes) >= self.capacity:
            return False
        board = self._true_board()
        if self._faced is None:
            self._faced = {self._ahead(snake.body[0], snake.heading) for snake in self.snakes}
        for _ in range(PLACING_DRAWS):
            snake = self._draw_snake()
            ahead = self._ahead(snake.body[0], snake.heading)
            room = {(x, y) for x, y in (*snake.body, ahead) if not board[y, x]}
            if len(room) == START_LENGTH + 1 and self._faced.isdisjoint(snake.body):
                break
        else:
            return False
        self.ids.append(snake_id)
        self.snakes.append(snake)
        self._named[snake_id] = snake
        self._faced.add(ahead)
        self._draw_on_board(snake_id, snake)
        if len(self.food) < self.settings.food:
            self._restock_food()
            self._board_is_true = False
        return True

    def leave(self, snake_id: str) -> None:
        """Take a snake off the board."""
        place = self.ids.index(snake_id)
        del self.ids[place]
        del self._named[snake_id]
        for x, y in self.snakes.pop(place).body:
            self._board[y, x] = 0
        self._faced = None

    def advance(self, moves: Mapping[str, int]) -> OpenTick:
        """Advance one tick; a snake without a move goes forward. The dead are gone afterwards."""
        before = list(zip(self.ids, self.snakes, strict=True))
        result = self.step([moves.get(snake_id, 0) for snake_id in self.ids])
        self.ids = [snake_id for snake_id, snake in before if snake.alive]
        self.snakes = [snake for snake in self.snakes if snake.alive]
        self._named = dict(zip(self.ids, self.snakes, strict=True))
        self._board_is_true = False
        self._faced = None
        return OpenTick(
            rewards={snake_id: reward for (snake_id, _), reward in zip(before, result.rewards, strict=True)},
            died={snake_id: START_LENGTH + snake.food_eaten for snake_id, snake in before if not snake.alive},
            over=result.over,
        )

    def codes(self, snake_ids: Sequence[str]) -> NDArray[np.uint8]:
        """Return uint8 (snakes, cells): what these living snakes see, as `observe` says it of one."""
        board = self._true_board()
        viewers = [self._named[snake_id] for snake_id in snake_ids]
        numbers = np.array([self._numbers[snake_id] for snake_id in snake_ids], np.int32).reshape(-1, 1)
        x, y = np.array([snake.body[0] for snake in viewers], np.intp).reshape(-1, 2, 1).swapaxes(0, 1)
        headings = np.array([snake.heading for snake in viewers], np.intp)
        seen = board.take(self._row[self._dy[headings] + y] + self._column[self._dx[headings] + x])
        codes = np.where(seen & 1, Cell.OTHER_HEAD, Cell.OTHER_BODY)
        codes[seen >> 1 == numbers + _FIRST_BODY // 2] = Cell.BODY
        return np.where(seen < _FIRST_BODY, seen, codes).astype(np.uint8)

    def _populate(self) -> None:
        """Place nobody: the first is still to join."""
        self._random = _QuickRandom(self.seed, self.world, self.episode)

    def _true_board(self) -> NDArray[np.int32]:
        """Return int32 (height, width): 0 nothing, 1 food, then two numbers a snake."""
        if self._board_is_true:
            return self._board
        self._numbers = {snake_id: number for number, snake_id in enumerate(self.ids)}
        self._next_number = len(self.ids)
        self._board[:] = 0
        for x, y in self.food:
            self._board[y, x] = _FOOD
        lengths = np.array([len(snake.body) for snake in self.snakes], np.intp)
        cells = chain.from_iterable(chain.from_iterable(snake.body for snake in self.snakes))
        columns, rows = np.fromiter(cells, np.intp, 2 * int(lengths.sum())).reshape(-1, 2).T
        values = np.repeat(np.arange(len(lengths), dtype=np.int32) * 2 + _FIRST_BODY, lengths)
        values[np.cumsum(lengths) - lengths] += 1  # the heads
        self._board[rows, columns] = values
        self._board_is_true = True
        return self._board

    def _draw_on_board(self, snake_id: str, snake: Snake) -> None:
        number = self._numbers[snake_id] = self._next_number
        self._next_number += 1
        for x, y in snake.body:
            self._board[y, x] = _FIRST_BODY + 2 * number
        x, y = snake.body[0]
        self._board[y, x] += 1


def check_capacity(settings: SnakeSettings, capacity: int) -> None:
    """Raise EnvError unless a board of these settings has room for so many new snakes and the food."""
    cells = settings.width * settings.height
    if not 1 <= capacity <= MAX_CAPACITY:
        raise EnvError(f"a world has room for 1 to {MAX_CAPACITY} snakes, not {capacity}")
    needed = max(_CELLS_RULED_OUT_BY_A_SNAKE * (capacity - 1) + 1, START_LENGTH * capacity + settings.food)
    if cells < needed:
        raise EnvError(
            f"a board of {settings.width} x {settings.height} has no room for {capacity} snakes and "
            f"{settings.food} food: it needs {needed} cells, or fewer snakes"
        )
