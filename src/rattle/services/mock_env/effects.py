"""What faults do: to the game, to the lines of a stream, and to answers."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from flask import Response

from rattle.services.mock_env.game import ScriptedGame, ScriptedLife
from rattle.services.mock_env.script import RADIUS, ScriptLine
from rattle.wire.problems import RequestError

LATE_SECONDS = 3.0
LATE_LINE_SECONDS = 1.0

#: From encoded lines and N, of which every N-th should be changed, to the lines that are sent.
Stream = Callable[[Iterable[bytes], int], Iterator[bytes]]


class AcceptsBadMoves(ScriptedGame):
    """Takes anything for a move."""

    def check_move(self, move: object) -> None:
        """Find nothing wrong."""


class AcceptsUnknownSnakes(ScriptedGame):
    """Lets snakes move that never joined."""

    def move(self, snake_id: str, now: float) -> bool:  # noqa: D102 - see Game
        try:
            return super().move(snake_id, now)
        except RequestError:
            return False

    def reset_snake(self, snake_id: str, now: float) -> None:  # noqa: D102 - see Game
        try:
            super().reset_snake(snake_id, now)
        except RequestError:
            return


class SharedScript(ScriptedGame):
    """Gives every snake the script of the one that was there first."""

    def begin(self, snake_id: str, now: float) -> ScriptedLife:  # noqa: D102 - see Game
        living = self.living()
        if not living:
            return super().begin(snake_id, now)
        self.lives[snake_id] = living[0]
        return living[0]


class StickyReset(ScriptedGame):
    """Resets nothing."""

    def reset(self, seed: int | None, now: float) -> int:  # noqa: D102 - see Game
        return self.seed if seed is None else seed

    def reset_snake(self, snake_id: str, now: float) -> None:  # noqa: D102 - see Game
        self.find(snake_id, now)


class NoEnd(ScriptedGame):
    """Continues forever."""

    def begin(self, snake_id: str, now: float) -> ScriptedLife:  # noqa: D102 - see Game
        life = super().begin(snake_id, now)
        life.length = sys.maxsize
        return life

    def line(self, life: ScriptedLife, tick: int) -> ScriptLine:  # noqa: D102 - see Game
        line = super().line(life, tick)
        line.game_over = False
        return line


class WrongWindow(ScriptedGame):
    """Counts cells from the head."""

    def line(self, life: ScriptedLife, tick: int) -> ScriptLine:  # noqa: D102 - see Game
        line = super().line(life, tick)
        line.visible_cells = {_from_head(key): name for key, name in line.visible_cells.items()}
        return line


class NoHead(ScriptedGame):
    """Leaves the snake's own head out."""

    def line(self, life: ScriptedLife, tick: int) -> ScriptLine:  # noqa: D102 - see Game
        line = super().line(life, tick)
        line.visible_cells = {key: name for key, name in line.visible_cells.items() if name != "HEAD"}
        return line


class NotRepeatable(ScriptedGame):
    """Shows food on a random cell."""

    def line(self, life: ScriptedLife, tick: int) -> ScriptLine:  # noqa: D102 - see Game
        line = super().line(life, tick)
        line.visible_cells[secrets.choice([key for key, name in line.visible_cells.items() if name == "EMPTY"])] = (
            "FOOD"
        )
        return line


def _from_head(key: str) -> str:
    x, y = map(int, key.split(","))
    return f"{x - RADIUS},{y - RADIUS}"


def each(change: Callable[[bytes], Iterable[bytes]]) -> Stream:
    """Change every N-th line on its own."""

    def stream(lines: Iterable[bytes], every: int) -> Iterator[bytes]:
        for number, line in enumerate(lines, 1):
            if number % every == 0:
                yield from change(line)
            else:
                yield line

    return stream


def edit(change: Callable[[dict[str, Any]], object]) -> Stream:
    """Change every N-th line as an object."""

    def changed(line: bytes) -> Iterable[bytes]:
        content = msgspec.json.decode(line)
        change(content)
        return [msgspec.json.encode(content) + b"\n"]

    return each(changed)


def late_line(line: bytes) -> Iterator[bytes]:
    """Hold a line back."""
    time.sleep(LATE_LINE_SECONDS)
    yield line


def _is_last(line: bytes) -> bool:
    return bool(msgspec.json.decode(line)["game_over"])


def cut(lines: Iterable[bytes], every: int) -> Iterator[bytes]:
    """Break the connection after N lines, before the last one."""
    for number, line in enumerate(lines):
        if number == every or _is_last(line):
            raise ConnectionAbortedError("a fault that was asked for")
        yield line


def swap(lines: Iterable[bytes], every: int) -> Iterator[bytes]:
    """Send a line, every N-th, after the one that follows it."""
    held: bytes | None = None
    for number, line in enumerate(lines, 1):
        if held is not None:
            yield from (line, held)
            held = None
        elif number % every == 0 and not _is_last(line):
            held = line
        else:
            yield line


def skip(lines: Iterable[bytes], every: int) -> Iterator[bytes]:
    """Leave a line out after every N lines, but not the last one."""
    for number, line in enumerate(lines, 1):
        if number % (every + 1) or _is_last(line):
            yield line


def after_end(lines: Iterable[bytes], every: int) -> Iterator[bytes]:
    """Send one line more than there are."""
    del every  # there is one end
    for line in lines:
        yield line
        if _is_last(line):
            content = msgspec.json.decode(line)
            yield msgspec.json.encode(content | {"tick": content["tick"] + 1, "game_over": False}) + b"\n"


def late_answer(response: Response) -> Response:
    """Hold an answer back."""
    time.sleep(LATE_SECONDS)
    return response


def _half_of(body: bytes) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionAbortedError("a fault that was asked for")


def cut_answer(response: Response) -> Response:
    """Announce the whole answer and break the connection in its middle."""
    body = response.get_data()
    headers = dict(response.headers) | {"Content-Length": str(len(body))}
    return Response(_half_of(body), response.status_code, headers)


def malformed_answer(response: Response) -> Response:
    """Send half of the answer's body."""
    body = response.get_data()
    response.set_data(body[: len(body) // 2])
    return response


def error_500(response: Response) -> Response:
    """Answer as a broken web application does."""
    page = "<!doctype html><title>500</title><h1>Internal Server Error</h1>"
    return Response(page, 500, {"Content-Type": "text/html; charset=utf-8"})


def plain_error(response: Response) -> Response:
    """Answer without a problem object."""
    return Response("something went wrong\n", response.status_code, {"Content-Type": "text/plain; charset=utf-8"})


def to_move(route: str, response: Response) -> bool:
    """Say whether it is a move that was taken."""
    return route == "move" and response.status_code == 200


def whole(route: str, response: Response) -> bool:
    """Say whether it is not a stream."""
    return not response.is_streamed


def error(route: str, response: Response) -> bool:
    """Say whether it is an error."""
    return response.status_code >= 400
