"""The use cases of the agent API: snakes join, move, are reset and watched, and a tick moves all of them.

No socket and no clock: every call that needs the time is given it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from rattle import __version__
from rattle.envs.snake.geometry import Move
from rattle.envs.snake.open_world import OpenWorld
from rattle.envs.snake.settings import START_LENGTH, SnakeSettings
from rattle.services.env.lines import CellMaps, LineFormat
from rattle.services.env.lives import Moment, SnakeLife, StreamReader, check_move, check_seed, check_snake_id
from rattle.wire.problems import RequestError

#: The dead of a game that are known by name; of more, the first to die are forgotten.
REMEMBERED_DEAD = 4096

_HEADINGS = ("north", "east", "south", "west")


class Game:
    """One world for many agents, one game after another: the first to join begins it, it ends with the last life.

    A life that ends between two ticks, by a reset or because the server stops, ends as of the tick that it does not
    live to see: its last line carries that tick's number and no reward.
    """

    def __init__(
        self, settings: SnakeSettings, seed: int, capacity: int = 1, clock: str = "turns", leave_seconds: float = 5.0
    ) -> None:
        self.settings = settings
        self.capacity = capacity
        self.clock = clock
        self.seed, self.episode = seed, 0
        self.in_progress = False
        self.closed = False
        self.ticks = 0  # of all games, as the following
        self.moves = 0
        self.lines = 0
        self._leave_seconds = leave_seconds
        self._maps = CellMaps(settings.vision_radius)
        self._next_game = (seed, 0)
        self._world = OpenWorld(settings, seed, 0, capacity)
        OpenWorld(settings, seed, 0, capacity).join("nobody")  # loads compiled code before anyone waits for it
        self._living: dict[str, SnakeLife] = {}
        self._dead: dict[str, SnakeLife] = {}
        self._unread: dict[SnakeLife, float] = {}  # since when, the longest first
        self._moves: dict[str, Move] = {}  # for the next tick
        self._awaited: set[str] = set()  # snakes that somebody reads and that have not moved

    @property
    def agents(self) -> int:
        """Return how many snakes live."""
        return len(self._living)

    @property
    def all_moved(self) -> bool:
        """Say whether every living snake that somebody reads has a move for the next tick, and there is one."""
        return not self._awaited and any(self._living[snake_id].readers for snake_id in self._moves)

    def health(self) -> dict[str, Any]:
        """Return what `GET /` says."""
        return {
            "service": "rattle env",
            "environment": "snake",
            "version": __version__,
            "game_over": not self.in_progress,
            "agents": self.agents,
            "capacity": self.capacity,
            "tick": self._world.tick,
            "clock": self.clock,
        }

    def follow(self, snake_id: str, reader: StreamReader, moment: Moment) -> SnakeLife:
        """Have a reader follow a snake, which joins if it does not live; the reader gets its first line at once.

        Raises RequestError (bad_value, full, shutting_down).
        """
        check_snake_id(snake_id)
        life = self._living.get(snake_id) or self._join(snake_id, moment)
        self._unread.pop(life, None)
        life.readers.add(reader)
        if snake_id not in self._moves:
            self._awaited.add(snake_id)
        reader.put(life.line(LineFormat(self._world.tick, moment.date)), False)
        self.lines += 1
        return life

    def unfollow(self, life: SnakeLife, reader: StreamReader, moment: Moment) -> None:
        """Take a reader away, which may have left with its snake's life already."""
        life.readers.discard(reader)
        if life.alive and not life.readers and life not in self._unread:
            self._unread[life] = moment.seconds
            self._awaited.discard(life.snake_id)

    def move(self, snake_id: str, move: object) -> dict[str, Any]:
        """Have a snake move so in the next tick; raises RequestError (bad_value, unknown_snake)."""
        checked = check_move(move)
        alive = self._known(snake_id).alive
        if alive:
            self._moves[snake_id] = checked
            self._awaited.discard(snake_id)
            self.moves += 1
        return {"snake_id": snake_id, "game_over": not alive}

    def reset_snake(self, snake_id: str, moment: Moment) -> dict[str, Any]:
        """End a snake's life and give it a new one; raises RequestError (bad_value, unknown_snake, full)."""
        life = self._known(snake_id)
        if life.alive:
            self._take_out([life], moment)
        self._unread[self._join(snake_id, moment)] = moment.seconds
        return {"snake_id": snake_id, "game_over": False}

    def reset(self, moment: Moment, seed: object = msgspec.UNSET) -> dict[str, Any]:
        """End the game for all; the next is the next episode, or with a seed its first. Raises RequestError."""
        first = None if seed is msgspec.UNSET else (check_seed(seed), 0)
        self._take_out(list(self._living.values()), moment)
        self._end_game()
        self._next_game = first or self._next_game
        return {"game_over": False, "seed": self._next_game[0]}

    def close(self, moment: Moment) -> None:
        """End all lives, and let nobody join any more."""
        self.closed = True
        self._take_out(list(self._living.values()), moment)
        self._end_game()

    def expire(self, moment: Moment) -> None:
        """Let the snakes leave that nobody has read for some time."""
        gone = []
        for life, since in self._unread.items():
            if moment.seconds - since < self._leave_seconds:
                break
            gone.append(life)
        if gone:
            self._take_out(gone, moment)
            if not self._living:
                self._end_game()

    def tick(self, moment: Moment) -> None:
        """Advance the game one tick and hand every reader its line; without a game nothing happens."""
        self.expire(moment)
        if not self.in_progress:
            return
        lives = self._advance()
        form = LineFormat(self._world.tick, moment.date)
        self._look(self._world.ids)
        for life in lives:
            self._hand_out(life, form)
        self._awaited = {snake_id for snake_id, life in self._living.items() if life.readers}

    def state(self) -> dict[str, Any]:
        """Return what `GET /state` says; `visions` are JSON already."""
        grid = {f"{x},{y}": [{"type": "FOOD", "snake_id": None}] for x, y in self._world.food}
        status: dict[str, Any] = {snake_id: _status(life) for snake_id, life in self._dead.items()}
        for snake_id, snake in zip(self._world.ids, self._world.snakes, strict=True):
            for x, y in snake.body:
                grid[f"{x},{y}"] = [{"type": "BODY", "snake_id": snake_id}]
            x, y = snake.body[0]
            grid[f"{x},{y}"] = [{"type": "HEAD", "snake_id": snake_id}]
            status[snake_id] = _status(self._living[snake_id], _HEADINGS[snake.heading], [x, y])
        return {
            "grid": grid,
            "visions": {snake_id: msgspec.Raw(life.cells) for snake_id, life in self._living.items()},
            "status": status,
            "global_game_over": not self.in_progress,
            "tick": self._world.tick,
            "episode": self.episode,
            "seed": self.seed,
            "width": self.settings.width,
            "height": self.settings.height,
            "vision_radius": self.settings.vision_radius,
            "clock": self.clock,
        }

    def _known(self, snake_id: str) -> SnakeLife:
        life = self._living.get(check_snake_id(snake_id)) or self._dead.get(snake_id)
        if life is None:
            raise RequestError("unknown_snake", f"no snake {snake_id!r} has joined: GET /snake/{snake_id} joins it")
        return life

    def _join(self, snake_id: str, moment: Moment) -> SnakeLife:
        self._check_open()
        self.expire(moment)
        life = SnakeLife(snake_id)
        if not self._place(life):
            raise self._full()
        self._look([snake_id])
        return life

    def _check_open(self) -> None:
        if self.closed:
            raise RequestError("shutting_down", "the server is stopping: join again when it is back")

    def _full(self) -> RequestError:
        room = f"{self.agents} of {self.capacity} snakes are there"
        return RequestError("full", f"no room for another snake, {room}: try again when one has died")

    def _place(self, life: SnakeLife) -> bool:
        """Put a snake on the board, of the next game if none is in progress; False when there is no room for it."""
        if not self.in_progress:
            self._begin_game()
        if not self._world.join(life.snake_id):
            if not self._living:
                self._end_game()
            return False
        self._dead.pop(life.snake_id, None)
        self._living[life.snake_id] = life
        return True

    def _begin_game(self) -> None:
        self.seed, self.episode = self._next_game
        self._world = OpenWorld(self.settings, self.seed, self.episode, self.capacity)
        self._dead.clear()
        self.in_progress = True

    def _end_game(self) -> None:
        if self.in_progress:
            self._next_game = (self.seed, self.episode + 1)
        self.in_progress = False

    def _advance(self) -> list[SnakeLife]:
        """Move all by a tick; return who lived before it, with the result, the dead last.

        Their readers join again at once, which must not hold up the others.
        """
        before = list(self._living.values())
        for life in before:
            life.move = self._moves.get(life.snake_id, Move.FORWARD)
        result = self._world.advance(self._moves)
        self.ticks += 1
        self._moves.clear()
        for snake_id, snake in zip(self._world.ids, self._world.snakes, strict=True):
            self._living[snake_id].length = START_LENGTH + snake.food_eaten
        for life in before:
            life.reward = result.rewards[life.snake_id]
            if life.snake_id in result.died:
                life.length = result.died[life.snake_id]
                self._end(life)
        if result.over:
            self._look(self._world.ids)
            for life in list(self._living.values()):
                self._world.leave(life.snake_id)
                self._end(life)
            self._end_game()
        return sorted(before, key=lambda life: life.snake_id in result.died)

    def _look(self, snake_ids: list[str]) -> None:
        """Write down what these living snakes see."""
        if not snake_ids:
            return
        codes = self._world.codes(snake_ids)
        for snake_id, row, cells in zip(snake_ids, codes, self._maps.encode(codes), strict=True):
            life = self._living[snake_id]
            life.codes, life.cells = row, cells

    def _take_out(self, lives: Iterable[SnakeLife], moment: Moment) -> None:
        """End lives between two ticks."""
        form = LineFormat(self._world.tick + 1, moment.date)
        for life in lives:
            life.move, life.reward = self._moves.get(life.snake_id, Move.FORWARD), 0.0
            self._world.leave(life.snake_id)
            self._end(life)
            self._hand_out(life, form)

    def _end(self, life: SnakeLife) -> None:
        life.alive = False
        del self._living[life.snake_id]
        self._unread.pop(life, None)
        self._moves.pop(life.snake_id, None)
        self._awaited.discard(life.snake_id)
        self._dead[life.snake_id] = life
        if len(self._dead) > REMEMBERED_DEAD:
            del self._dead[next(iter(self._dead))]

    def _hand_out(self, life: SnakeLife, form: LineFormat) -> None:
        if not life.readers:
            return
        line = life.line(form)
        self.lines += len(life.readers)
        for reader in life.readers:
            reader.put(line, not life.alive)
        if not life.alive:
            life.readers.clear()


def _status(life: SnakeLife, heading: str | None = None, head: list[int] | None = None) -> dict[str, Any]:
    return {
        "game_over": not life.alive,
        "length": life.length,
        "score": life.length - START_LENGTH,
        "heading": heading,
        "head": head,
        "reward": life.reward,
    }
