"""A game in lockstep: whatever happens between two ticks comes into force with the next, in an order of its own.

Nothing here depends on the time, nor on the order in which requests arrive between two ticks.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from struct import pack
from typing import Any

import msgspec

from rattle.envs.snake.open_world import OpenWorld
from rattle.envs.snake.settings import SnakeSettings
from rattle.services.env.game import REMEMBERED_DEAD, Game
from rattle.services.env.lines import LineFormat
from rattle.services.env.lives import Moment, SnakeLife, StreamReader, check_move, check_seed, check_snake_id
from rattle.wire.history import BEGINNING, after_line, extended


class LockstepGame(Game):
    """A game whose snakes wait for the next tick to join, and whose history can be compared.

    Snakes that nobody reads leave after `leave_ticks`: the seconds of a moment are not looked at.
    """

    def __init__(self, settings: SnakeSettings, seed: int, capacity: int = 1, leave_ticks: float = 50.0) -> None:
        super().__init__(settings, seed, capacity, "lockstep", leave_ticks)
        self.steps = 0
        self.world_history = BEGINNING
        self.snake_histories: dict[str, bytes] = {}  # the longest out of the game first
        self._waiting: dict[str, SnakeLife] = {}
        self._ending: set[str] = set()  # living snakes that get a new life
        self._reset_asked = False
        self._seed_asked: object = msgspec.UNSET

    def follow(self, snake_id: str, reader: StreamReader, moment: Moment) -> SnakeLife:
        """Have a reader follow a snake; one that does not live waits, and has its first line with the next tick.

        Raises RequestError (bad_value, full, shutting_down).
        """
        if check_snake_id(snake_id) in self._living:
            return super().follow(snake_id, reader, moment)
        life = self._wait(snake_id)
        life.readers.add(reader)
        return life

    def unfollow(self, life: SnakeLife, reader: StreamReader, moment: Moment) -> None:
        """Take a reader away; a snake that waits and has no other joins no more."""
        if self._waiting.get(life.snake_id) is not life:
            super().unfollow(life, reader, self._in_ticks(moment))
            return
        life.readers.discard(reader)
        if not life.readers:
            del self._waiting[life.snake_id]

    def move(self, snake_id: str, move: object) -> dict[str, Any]:
        """Have a snake move so in the next tick; one that waits to join cannot yet. Raises RequestError."""
        if snake_id in self._waiting:
            check_move(move)
            return {"snake_id": snake_id, "game_over": False}
        return super().move(snake_id, move)

    def reset_snake(self, snake_id: str, moment: Moment) -> dict[str, Any]:
        """End a snake's life with the next tick, and give it a new one in the same; raises RequestError."""
        if snake_id in self._living:
            self._ending.add(snake_id)
        elif snake_id not in self._waiting:
            self._known(snake_id)
            self._wait(snake_id)
        return {"snake_id": snake_id, "game_over": False}

    def reset(self, moment: Moment, seed: object = msgspec.UNSET) -> dict[str, Any]:
        """End the game for all with the next tick; raises RequestError."""
        if seed is not msgspec.UNSET:
            self._seed_asked = check_seed(seed)
        self._reset_asked = True
        following = self.seed if self.in_progress else self._next_game[0]
        return {"game_over": False, "seed": following if self._seed_asked is msgspec.UNSET else self._seed_asked}

    def close(self, moment: Moment) -> None:
        """End all lives, and let nobody join any more."""
        super().close(moment)
        for life in self._waiting.values():
            _turn_away(life)
        self._waiting.clear()

    def expire(self, moment: Moment) -> None:
        """Let the snakes leave that nobody has read for some ticks."""
        super().expire(self._in_ticks(moment))

    def tick(self, moment: Moment) -> None:
        """Advance the game one tick, let in those who wait, in the order of their ids, and hand out all lines."""
        self.steps += 1
        self.expire(moment)
        self._end_as_asked(moment)
        lives = self._advance() if self.in_progress else []
        form = LineFormat(self._world.tick, moment.date)
        placed = self._let_in()
        self._look(self._world.ids)
        for life in lives:
            self._hand_out(life, form)
        form = LineFormat(self._world.tick, moment.date)  # the next game's, if one has begun
        for life in placed:
            self._hand_out(life, form)
        self.world_history = extended(self.world_history, _content(self._world, self.in_progress))

    def _in_ticks(self, moment: Moment) -> Moment:
        return Moment(self.steps, moment.date)

    def _wait(self, snake_id: str) -> SnakeLife:
        life = self._waiting.get(snake_id)
        if life is None:
            self._check_open()
            if len(self._living) + len(self._waiting) >= self.capacity:
                raise self._full()
            life = self._waiting[snake_id] = SnakeLife(snake_id)
        return life

    def _end_as_asked(self, moment: Moment) -> None:
        ending = sorted(self._ending & self._living.keys())
        self._take_out([self._living[snake_id] for snake_id in ending], moment)
        if self._reset_asked:
            super().reset(moment, self._seed_asked)
        elif ending and not self._living:
            self._end_game()
        self._waiting |= {snake_id: SnakeLife(snake_id) for snake_id in ending if snake_id not in self._waiting}
        self._ending.clear()
        self._reset_asked, self._seed_asked = False, msgspec.UNSET

    def _let_in(self) -> list[SnakeLife]:
        """Place those who wait; the streams of those for whom there is no room end."""
        placed = []
        for snake_id in sorted(self._waiting):
            life = self._waiting.pop(snake_id)
            if self._place(life):
                placed.append(life)
                if not life.readers:
                    self._unread[life] = self.steps
            else:
                _turn_away(life)
        return placed

    def _hand_out(self, life: SnakeLife, form: LineFormat) -> None:
        """Give every reader the line, and write it down in the snake's history."""
        super()._hand_out(life, form)
        before = self.snake_histories.pop(life.snake_id, BEGINNING)
        self.snake_histories[life.snake_id] = after_line(
            before, form.tick, life.move, life.reward, life.length, not life.alive, life.codes
        )
        if len(self.snake_histories) > REMEMBERED_DEAD + self.capacity:
            del self.snake_histories[next(iter(self.snake_histories))]


def _turn_away(life: SnakeLife) -> None:
    """End the streams of a snake that has not joined."""
    life.alive = False
    for reader in life.readers:
        reader.put(b"", True)
    life.readers.clear()


def _content(world: OpenWorld, in_progress: bool) -> bytes:
    """Return all that can be seen of a world, in bytes that no other state has."""
    parts = [pack("<qqQ?H", world.tick, world.episode, world.seed, in_progress, len(world.ids))]
    for snake_id, snake in zip(world.ids, world.snakes, strict=True):
        name = snake_id.encode()
        parts += (pack("<BBH", len(name), snake.heading, len(snake.body)), name, _cells(snake.body))
    parts.append(_cells(sorted(world.food)))
    return b"".join(parts)


def _cells(cells: Iterable[tuple[int, int]]) -> bytes:
    return bytes(chain.from_iterable(cells))
