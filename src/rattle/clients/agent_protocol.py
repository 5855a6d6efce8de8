"""The agent API as a client speaks it (docs/env-api.md), without a socket or a clock: requests, answers, lines."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from rattle.clients.errors import BadAnswer, ClientError, ConnectionBroken, RequestRefused, refusal

MoveName = Literal["left", "right", "forward"]
CellName = Literal["EMPTY", "FOOD", "HEAD", "BODY", "OTHER_HEAD", "OTHER_BODY"]
Lines = Literal["newest", "all"]

#: The moves in the order of the batch worlds' actions: MOVES[action].
MOVES: tuple[MoveName, ...] = ("forward", "right", "left")
#: The longest line that is taken, in bytes.
MAX_LINE_BYTES = 2**22
_CODES: dict[str, int] = {"EMPTY": 0, "FOOD": 1, "BODY": 2, "OTHER_HEAD": 3, "OTHER_BODY": 4}
_SNAKE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_Answer = TypeVar("_Answer")


class StreamBroken(ConnectionBroken):
    """A stream broke off before the line with `game_over: true`."""


class SnakeLost(ClientError):
    """The snake's life ended, or lines were lost, while there was no connection."""


class AgentState(msgspec.Struct, frozen=True):
    """One line of a stream."""

    snake_id: str
    tick: Annotated[int, Meta(ge=0)]
    visible_cells: dict[str, CellName]
    reward: float
    game_over: bool
    datetime: datetime
    length: Annotated[int, Meta(ge=0)]

    def observation(self) -> NDArray[np.uint8]:
        """Return what the snake sees as the batch worlds give it to a policy; see `observation`."""
        return observation(self.visible_cells)


class MoveAnswer(msgspec.Struct, frozen=True):
    """The answer to a move or to a reset of one snake."""

    snake_id: str
    game_over: bool


class GameResetAnswer(msgspec.Struct, frozen=True):
    """The answer to a reset of the whole game."""

    game_over: bool
    seed: Annotated[int, Meta(ge=0)]


class Health(msgspec.Struct, frozen=True):
    """The answer of `GET /`."""

    service: str
    environment: str
    version: str
    game_over: bool
    agents: int
    capacity: int
    tick: int
    clock: str


# msgspec describes a message type when its first decoder is made, and crashes where two threads do that at once: these
# are described before there are any.
for _kind in (AgentState, MoveAnswer, GameResetAnswer, Health):
    msgspec.json.Decoder(_kind)


def check_snake_id(snake_id: str) -> str:
    """Return an id that may be in a path."""
    if not _SNAKE_ID.fullmatch(snake_id):
        raise ClientError(f"a snake's id is 1 to 64 of the characters A-Z a-z 0-9 . _ -, not {snake_id!r}")
    return snake_id


def read_answer(status: int, headers: Mapping[str, str], body: bytes, kind: type[_Answer]) -> _Answer:
    """Return an answer's body as a `kind`; raises Refused or BadAnswer."""
    if status >= 400:
        raise read_problem(status, headers, body)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(f"the server's answer is not as docs/env-api.md says: {error}") from None


def read_problem(status: int, headers: Mapping[str, str], body: bytes) -> RequestRefused:
    """Return the error that an answer with a status of 400 or more stands for."""
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        content = None
    error = refusal(status, content if isinstance(content, dict) else None)
    after = headers.get("retry-after", "")
    if re.fullmatch("[0-9]{1,9}", after):  # the other form, a date, is not worth a clock here
        error.retry_after = float(after)
    return error


def read_about(snake_id: str, answer: MoveAnswer) -> bool:
    """Return `game_over` of an answer about a snake; raises BadAnswer for one about another."""
    if answer.snake_id != snake_id:
        raise BadAnswer(f"the answer to a request of '{snake_id}' is about '{answer.snake_id}'")
    return answer.game_over


def is_alive(world: Mapping[str, Any], snake_id: str) -> bool:
    """Say whether a snake lives by the state of the world."""
    status = world.get("status")
    snake = status.get(snake_id) if isinstance(status, dict) else None
    return isinstance(snake, dict) and snake.get("game_over") is False


class LineReader:
    """Turns the bytes of a snake's stream into states and checks them, over as many connections as it takes."""

    def __init__(self, snake_id: str, lines: Lines = "newest") -> None:
        self._snake_id = snake_id
        self._all = lines == "all"
        self._last: AgentState | None = None
        self._connected_again = False
        self._lines: deque[bytes] = deque()
        self._rest = b""

    @property
    def has_begun(self) -> bool:
        """Say whether there has been a line."""
        return self._last is not None

    def connect(self) -> None:
        """Forget what is unread and take the next line as the first of a connection: it may repeat the last one."""
        self._lines.clear()
        self._rest = b""
        self._connected_again = self.has_begun

    def feed(self, data: bytes) -> None:
        """Take bytes as they arrive; raises BadAnswer for a line without an end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines.extend(line for line in lines if line.strip())
        if len(self._rest) > MAX_LINE_BYTES:
            raise BadAnswer(f"a line of the stream is longer than {MAX_LINE_BYTES} bytes")

    def next_state(self) -> AgentState | None:
        """Return the next state, None when more bytes are needed; raises BadAnswer, SnakeLost."""
        while self._lines:
            state = self._read(self._lines.popleft())
            if state is not None:
                return state
        return None

    def check_still_alive(self, world: Mapping[str, Any]) -> None:
        """Raise SnakeLost if the state of the world says that the snake's life has ended: a reader would join again."""
        if not is_alive(world, self._snake_id):
            raise SnakeLost(f"the stream of '{self._snake_id}' broke off, and its life ended before it could continue")

    def _read(self, line: bytes) -> AgentState | None:
        try:
            state = msgspec.json.decode(line, type=AgentState)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadAnswer(f"a line of the stream is not as docs/env-api.md says: {error}") from None
        if state.snake_id != self._snake_id:
            raise BadAnswer(f"the stream of '{self._snake_id}' brought a line of '{state.snake_id}'")
        again, self._connected_again = self._connected_again, False
        if self._last is not None:
            if again and state.tick == self._last.tick and not state.game_over:
                return None
            self._check_tick(state.tick, self._last.tick, again)
        self._last = state
        return state

    def _check_tick(self, tick: int, last: int, again: bool) -> None:
        if tick <= last:
            if again:
                raise SnakeLost(f"the stream broke off after tick {last} and continues with {tick}: it is a new life")
            raise BadAnswer(f"tick {tick} came after tick {last}: ticks must rise")
        if self._all and tick != last + 1:
            if again:
                raise SnakeLost(f"ticks {last + 1} to {tick - 1} passed while there was no connection")
            raise BadAnswer(f"tick {tick} came after tick {last}: with lines=all none may be left out")


def observation(visible_cells: Mapping[str, str]) -> NDArray[np.uint8]:
    """Return what a snake sees as uint8 (cells,), in the order and the codes of the batch worlds.

    Cells are ordered by x, then y, the head left out; the window's size follows from where the head is. Raises
    BadAnswer if the cells are not exactly those within some L1 distance of the head in the middle.
    """
    radius = _radius([key for key, name in visible_cells.items() if name == "HEAD"])
    if len(visible_cells) != 2 * radius * (radius + 1) + 1:
        raise _wrong_cells(radius)
    try:
        names = [visible_cells[key] for key in _keys(radius)]
    except KeyError:
        raise _wrong_cells(radius) from None
    try:
        return np.array([_CODES[name] for name in names], np.uint8)
    except KeyError as error:
        raise BadAnswer(f"visible_cells hold {error}, which is not the name of a cell") from None


@lru_cache(maxsize=8)
def _keys(radius: int) -> list[str]:
    from rattle.envs.snake.geometry import visible_offsets  # here because it loads Gymnasium

    return [f"{radius + dx},{radius + dy}" for dx, dy in visible_offsets(radius)]


def _wrong_cells(radius: int) -> BadAnswer:
    return BadAnswer(f"visible_cells are not the cells within distance {radius} of a head at {radius},{radius}")


def _radius(found: Sequence[str]) -> int:
    parts = found[0].split(",") if len(found) == 1 else []
    if len(parts) != 2 or parts[0] != parts[1] or not parts[0].isdecimal() or len(parts[0]) > 3:
        raise BadAnswer("visible_cells must hold HEAD once, in the middle of the window")
    return int(parts[0])
