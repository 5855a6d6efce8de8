"""Snakes that each follow their script: who lives, which tick each has reached, what the routes answer.

No socket and no clock: every method takes `now`, seconds since 1970 that never go back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import rattle
from rattle.services.mock_env import script
from rattle.services.mock_env.script import ScriptLine
from rattle.wire.problems import RequestError

SERVICE = "rattle mock-env"
MOVES = ("left", "right", "forward")
#: A snake that nobody reads for so long is gone.
LEAVE_SECONDS = 5.0
#: How many snakes whose script has ended are remembered, so that a late move is told of it.
DEAD_REMEMBERED = 256
#: Each snake has columns of its own, so wide that none sees another.
LANE_WIDTH = 2 * script.RADIUS + 1


@dataclass
class ScriptedLife:
    """One run through a script: `moments` holds when each line was made."""

    snake_id: str
    lane: int
    episode: int
    length: int
    moments: list[float]
    idle_since: float
    readers: int = field(default=0)

    @property
    def tick(self) -> int:
        """Return the tick that has been reached."""
        return len(self.moments) - 1

    @property
    def over(self) -> bool:
        """Say whether the last line has been made."""
        return self.tick >= self.length

    def advance(self, now: float) -> None:
        """Make the next line."""
        self.moments.append(now)

    def end(self, now: float) -> None:
        """Make the next line the last; an ended life stays as it is."""
        if not self.over:
            self.length = self.tick + 1
            self.advance(now)


class ScriptedGame:
    """The whole service but its network face."""

    def __init__(self, snakes: int, length: int, delay: float) -> None:
        self.snakes = snakes
        self.length = length
        self.delay = delay
        self.episode = 0
        self.seed = 0
        self.stopping = False
        self.lives: dict[str, ScriptedLife] = {}

    def join(self, snake_id: str, now: float) -> ScriptedLife:
        """Count a reader to the snake's life, which begins if there is none; RequestError `full` without room."""
        self._check_running()
        self._catch_up_all(now)
        life = self.lives.get(snake_id)
        if life is None or life.over:
            life = self.begin(snake_id, now)
        life.readers += 1
        return life

    def leave(self, life: ScriptedLife, now: float) -> None:
        """Take a reader away again."""
        self.catch_up(life, now)
        life.readers -= 1
        life.idle_since = now

    def move(self, snake_id: str, now: float) -> bool:
        """Continue with a snake's script by one line; return whether it is over."""
        self._check_running()
        life = self.find(snake_id, now)
        if not life.over:
            life.advance(now)
        return life.over

    def reset(self, seed: int | None, now: float) -> int:
        """End every script with its last line; the next game begins. Return its seed."""
        self._check_running()
        self._catch_up_all(now)
        for life in self.lives.values():
            life.end(now)
        self.episode += 1
        self.seed = self.seed if seed is None else seed
        return self.seed

    def reset_snake(self, snake_id: str, now: float) -> None:
        """End a snake's script with its last line and start it over."""
        self._check_running()
        self._catch_up_all(now)
        self.find(snake_id, now).end(now)
        self.begin(snake_id, now)

    def stop(self, now: float) -> None:
        """End every script with its last line and refuse everything from now on."""
        self._catch_up_all(now)
        self.stopping = True
        for life in self.lives.values():
            life.end(now)

    def check_move(self, move: object) -> None:
        """Raise RequestError `bad_value` for what is no move."""
        if move not in MOVES:
            raise RequestError("bad_value", f"move must be one of {', '.join(MOVES)}, got {move!r:.60}", "move")

    def living(self) -> list[ScriptedLife]:
        """Return the lives that are not over."""
        return [life for life in self.lives.values() if not life.over]

    def find(self, snake_id: str, now: float) -> ScriptedLife:
        """Return a snake's life, caught up; RequestError `unknown_snake` where there is none."""
        life = self.lives.get(snake_id)
        if life is None:
            raise RequestError("unknown_snake", f"no snake '{snake_id}' has joined: GET /snake/{snake_id} first")
        self.catch_up(life, now)
        return life

    def begin(self, snake_id: str, now: float) -> ScriptedLife:
        """Start a snake's script; RequestError `full` without room."""
        taken = {life.lane for life in self.living()}
        if len(taken) >= self.snakes:
            raise RequestError("full", f"all {self.snakes} places are taken: try again when a script has ended")
        if self._game_over():
            self.episode += 1
        lane = next(lane for lane in range(self.snakes) if lane not in taken)
        life = ScriptedLife(snake_id, lane, self.episode, self.length, [now], idle_since=now)
        self.lives.pop(snake_id, None)
        self.lives[snake_id] = life
        self._forget()
        return life

    def catch_up(self, life: ScriptedLife, now: float) -> None:
        """Make the lines that are due by now; a snake that nobody reads leaves."""
        gone = math.inf if life.readers else life.idle_since + LEAVE_SECONDS
        while not life.over and min(self.next_line(life), gone) <= now:
            if gone < self.next_line(life):
                life.end(gone)
            else:
                life.advance(self.next_line(life))

    def next_line(self, life: ScriptedLife) -> float:
        """Return when a life's next line is due, if no move comes before."""
        return life.moments[-1] + self.delay

    def line(self, life: ScriptedLife, tick: int) -> ScriptLine:
        """Return a line that has been made."""
        moment = datetime.fromtimestamp(life.moments[tick], UTC).isoformat(timespec="microseconds")
        return script.line(life.snake_id, tick, life.length, moment)

    def summary(self, now: float) -> dict[str, Any]:
        """Return the answer of `GET /`."""
        self._catch_up_all(now)
        living = self.living()
        return {
            "service": SERVICE,
            "environment": "mock",
            "version": rattle.__version__,
            "game_over": self._game_over(),
            "agents": len(living),
            "capacity": self.snakes,
            "tick": max((life.tick for life in living), default=0),
            "clock": "turns",
        }

    def state(self, now: float) -> dict[str, Any]:
        """Return the answer of `GET /state`."""
        self._catch_up_all(now)
        living = self.living()
        grid: dict[str, list[dict[str, str | None]]] = {}
        for life in living:
            for (x, y), kind in self._cells(life).items():
                grid[f"{x},{y}"] = [{"type": kind, "snake_id": None if kind == "FOOD" else life.snake_id}]
        return {
            "grid": grid,
            "visions": {life.snake_id: self.line(life, life.tick).visible_cells for life in living},
            "status": {life.snake_id: self._status(life) for life in self.lives.values() if self._present(life)},
            "global_game_over": self._game_over(),
            "tick": max((life.tick for life in living), default=0),
            "episode": self.episode,
            "seed": self.seed,
            "width": LANE_WIDTH * self.snakes,
            "height": self._height(),
            "vision_radius": script.RADIUS,
            "clock": "turns",
        }

    def _check_running(self) -> None:
        if self.stopping:
            raise RequestError("shutting_down", "the server is stopping")

    def _catch_up_all(self, now: float) -> None:
        for life in self.lives.values():
            self.catch_up(life, now)

    def _present(self, life: ScriptedLife) -> bool:
        return life.episode == self.episode

    def _game_over(self) -> bool:
        """A game that no snake has joined yet is in progress."""
        return any(map(self._present, self.lives.values())) and not self.living()

    def _forget(self) -> None:
        dead = [life.snake_id for life in self.lives.values() if life.over]
        for snake_id in dead[: max(0, len(dead) - DEAD_REMEMBERED)]:
            del self.lives[snake_id]

    def _height(self) -> int:
        return script.body_length(self.length) + LANE_WIDTH

    def _head(self, life: ScriptedLife) -> tuple[int, int]:
        """A snake goes north, through its own columns."""
        return LANE_WIDTH * life.lane + script.RADIUS, -(life.tick + 1) % self._height()

    def _cells(self, life: ScriptedLife) -> dict[tuple[int, int], str]:
        x, y = self._head(life)
        height = self._height()
        cells = {(x, (y + behind) % height): "BODY" for behind in range(1, script.body_length(life.tick))}
        distance = script.food_distance(life.tick)
        if distance is not None:
            cells[x, (y - distance) % height] = "FOOD"
        return {(x, y): "HEAD", **cells}

    def _status(self, life: ScriptedLife) -> dict[str, Any]:
        line = self.line(life, life.tick)
        return {
            "game_over": life.over,
            "length": line.length,
            "score": line.length - script.START_LENGTH,
            "heading": "north",
            "head": None if life.over else list(self._head(life)),
            "reward": line.reward,
        }
