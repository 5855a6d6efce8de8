"""What a game of the agent API remembers of each snake."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rattle.envs.snake.geometry import Move
from rattle.envs.snake.settings import START_LENGTH
from rattle.services.env.lines import LineFormat
from rattle.wire.history import PLACED
from rattle.wire.problems import RequestError

MOVES = {"left": Move.LEFT, "right": Move.RIGHT, "forward": Move.FORWARD}
MAX_SEED = 2**63 - 1
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Moment(NamedTuple):
    """When something happens: `seconds` of a clock that never jumps, and the date that lines carry."""

    seconds: float
    date: datetime


class StreamReader(Protocol):
    """Takes the lines of one life, in order; nothing follows the last."""

    def put(self, line: bytes, last: bool) -> None:
        """Take a line, at once and without failing, however slow the reader is."""


@dataclass(eq=False)
class SnakeLife:
    """A snake from joining to its end; afterwards what it was at its end."""

    snake_id: str
    codes: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))  # what it sees
    cells: bytes = b""  # the same as JSON
    move: int = PLACED  # the action taken into its last tick
    length: int = START_LENGTH
    reward: float = 0.0
    alive: bool = True
    readers: set[StreamReader] = field(default_factory=set)

    def line(self, form: LineFormat) -> bytes:
        """Return the line that says how things stand."""
        return form.line(self.snake_id, self.cells, self.reward, self.length, not self.alive)


def check_snake_id(snake_id: str) -> str:
    """Return an id that may be used; raises RequestError."""
    if not _ID.fullmatch(snake_id):
        raise RequestError("bad_value", f"id must be 1 to 64 of A-Z a-z 0-9 . _ -, got {snake_id[:80]!r}", "id")
    return snake_id


def check_move(move: object) -> Move:
    """Return a move by its name; raises RequestError."""
    if not isinstance(move, str) or move not in MOVES:
        raise RequestError("bad_value", f"move must be one of {', '.join(MOVES)}, got {_shown(move)}", "move")
    return MOVES[move]


def check_seed(seed: object) -> int:
    """Return a seed that may be used; raises RequestError."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise RequestError("bad_value", f"seed must be a whole number from 0 to 2**63 - 1, got {_shown(seed)}", "seed")
    return seed


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
