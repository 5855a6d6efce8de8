"""Faults on request: each breaks one rule of the agent API in a way that a client or a checker should notice.

A fault acts in one of three places: on the game, on the lines of a stream, or on answers.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec
from flask import Response

from rattle.services.mock_env.game import Game, Life
from rattle.services.mock_env.script import RADIUS, Line
from rattle.wire.problems import RequestError

LATE_SECONDS = 3.0
LATE_LINE_SECONDS = 1.0

#: Encoded lines and how many are left alone between two changed ones, plus one.
Stream = Callable[[Iterable[bytes], int], Iterator[bytes]]
#: The name of a route and its answer.
Answer = Callable[[Response], Response]


@dataclass(frozen=True)
class Fault:
    """What a faulty server does, the rule that this breaks, and the one place where it does it."""

    does: str
    breaks: str
    game: type[Game] | None = None
    stream: Stream | None = None
    answer: Answer | None = None
    answers_to: Callable[[str, Response], bool] = lambda route, response: True

    @property
    def counts(self) -> bool:
        """Say whether `--fault-every` applies: games are faulty all the time."""
        return self.game is None


class _AcceptsBadMoves(Game):
    def check_move(self, move: object) -> None:
        """Take anything for a move."""


class _AcceptsUnknownSnakes(Game):
    def move(self, snake_id: str, now: float) -> bool:
        try:
            return super().move(snake_id, now)
        except RequestError:
            return False

    def reset_snake(self, snake_id: str, now: float) -> None:
        try:
            super().reset_snake(snake_id, now)
        except RequestError:
            return


class _SharedScript(Game):
    def move(self, snake_id: str, now: float) -> bool:
        over = super().move(snake_id, now)
        for other in self.living():
            if other.snake_id != snake_id:
                other.advance(now)
        return over


class _StickyReset(Game):
    def reset(self, seed: int | None, now: float) -> int:
        return self.seed if seed is None else seed

    def reset_snake(self, snake_id: str, now: float) -> None:
        self.find(snake_id, now)


class _NoEnd(Game):
    def begin(self, snake_id: str, now: float) -> Life:
        life = super().begin(snake_id, now)
        life.length = sys.maxsize
        return life

    def line(self, life: Life, tick: int) -> Line:
        line = super().line(life, tick)
        line.game_over = False
        return line


class _WrongWindow(Game):
    def line(self, life: Life, tick: int) -> Line:
        line = super().line(life, tick)
        line.visible_cells = {_from_head(key): name for key, name in line.visible_cells.items()}
        return line


class _NoHead(Game):
    def line(self, life: Life, tick: int) -> Line:
        line = super().line(life, tick)
        line.visible_cells = {key: name for key, name in line.visible_cells.items() if name != "HEAD"}
        return line


class _NotRepeatable(Game):
    def line(self, life: Life, tick: int) -> Line:
        line = super().line(life, tick)
        line.visible_cells[secrets.choice([key for key, name in line.visible_cells.items() if name == "EMPTY"])] = (
            "FOOD"
        )
        return line


def _from_head(key: str) -> str:
    x, y = map(int, key.split(","))
    return f"{x - RADIUS},{y - RADIUS}"


def _each(change: Callable[[bytes], Iterable[bytes]]) -> Stream:
    """Change every so-manieth line on its own."""

    def stream(lines: Iterable[bytes], every: int) -> Iterator[bytes]:
        for number, line in enumerate(lines, 1):
            if number % every == 0:
                yield from change(line)
            else:
                yield line

    return stream


def _edit(change: Callable[[dict[str, Any]], object]) -> Stream:
    def changed(line: bytes) -> Iterable[bytes]:
        content = msgspec.json.decode(line)
        change(content)
        return [msgspec.json.encode(content) + b"\n"]

    return _each(changed)


def _late(line: bytes) -> Iterator[bytes]:
    time.sleep(LATE_LINE_SECONDS)
    yield line


def _is_last(line: bytes) -> bool:
    return bool(msgspec.json.decode(line)["game_over"])


def _cut(lines: Iterable[bytes], every: int) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        if number == every or _is_last(line):
            raise ConnectionAbortedError("a fault that was asked for")
        yield line


def _swap(lines: Iterable[bytes], every: int) -> Iterator[bytes]:
    held: bytes | None = None
    for number, line in enumerate(lines, 1):
        if held is not None:
            yield from (line, held)
            held = None
        elif number % every == 0 and not _is_last(line):
            held = line
        else:
            yield line


def _skip(lines: Iterable[bytes], every: int) -> Iterator[bytes]:
    for number, line in enumerate(lines, 1):
        if number % (every + 1) or _is_last(line):
            yield line


def _after_end(lines: Iterable[bytes], every: int) -> Iterator[bytes]:
    del every  # there is one end
    for line in lines:
        yield line
        if _is_last(line):
            content = msgspec.json.decode(line)
            yield msgspec.json.encode(content | {"tick": content["tick"] + 1, "game_over": False}) + b"\n"


def _late_answer(response: Response) -> Response:
    time.sleep(LATE_SECONDS)
    return response


def _half_of(body: bytes) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionAbortedError("a fault that was asked for")


def _cut_answer(response: Response) -> Response:
    body = response.get_data()
    headers = dict(response.headers) | {"Content-Length": str(len(body))}
    return Response(_half_of(body), response.status_code, headers)


def _malformed_answer(response: Response) -> Response:
    body = response.get_data()
    response.set_data(body[: len(body) // 2])
    return response


def _error_500(response: Response) -> Response:
    page = "<!doctype html><title>500</title><h1>Internal Server Error</h1>"
    return Response(page, 500, {"Content-Type": "text/html; charset=utf-8"})


def _plain_error(response: Response) -> Response:
    return Response("something went wrong\n", response.status_code, {"Content-Type": "text/plain; charset=utf-8"})


def _to_move(route: str, response: Response) -> bool:
    return route == "move" and response.status_code == 200


def _whole(route: str, response: Response) -> bool:
    return not response.is_streamed


def _error(route: str, response: Response) -> bool:
    return response.status_code >= 400


#: Every fault by its name.
FAULTS: dict[str, Fault] = {
    "late": Fault(
        f"answers to moves come {LATE_SECONDS:g} seconds late",
        "a move is answered while it can still count",
        answer=_late_answer,
        answers_to=_to_move,
    ),
    "late-lines": Fault(
        f"lines come {LATE_LINE_SECONDS:g} second after they were made",
        "every tick brings a line when it happens",
        stream=_each(_late),
    ),
    "cut-stream": Fault(
        "a stream's connection breaks after N lines, before the last one",
        "a stream ends after the line with game_over true",
        stream=_cut,
    ),
    "cut-answer": Fault(
        "the connection closes in the middle of an answer",
        "answers are complete",
        answer=_cut_answer,
        answers_to=_whole,
    ),
    "malformed-line": Fault(
        "a line is cut in half and not JSON any more",
        "a stream is application/x-ndjson",
        stream=_each(lambda line: [line[: len(line) // 2] + b"\n"]),
    ),
    "malformed-answer": Fault(
        "an answer is half of its JSON", "answers are JSON", answer=_malformed_answer, answers_to=_whole
    ),
    "missing-field": Fault(
        "a line has no reward", "a line has all seven fields", stream=_edit(lambda line: line.pop("reward"))
    ),
    "wrong-type": Fault(
        "a line's tick is a string", "tick is a number", stream=_edit(lambda line: line.update(tick=str(line["tick"])))
    ),
    "out-of-order": Fault("a line and the next one are swapped", "lines come in order", stream=_swap),
    "repeated-line": Fault("a line comes twice", "a tick brings a line once", stream=_each(lambda line: [line, line])),
    "skipped-tick": Fault(
        "after N lines one is left out, for readers with lines=all too", "lines=all leaves none out", stream=_skip
    ),
    "after-end": Fault(
        "a line follows the one with game_over true", "the line with game_over true is the last", stream=_after_end
    ),
    "no-end": Fault(
        "no line has game_over true: scripts go on for ever, and a reset just closes their streams",
        "the last line of a life has game_over true",
        game=_NoEnd,
    ),
    "error-500": Fault(
        "a move is answered with status 500 and an HTML page",
        "a valid move of a snake is answered with 200, and errors are problem+json",
        answer=_error_500,
        answers_to=_to_move,
    ),
    "plain-errors": Fault(
        "errors are plain text",
        "answers with a status of 400 or more are problem+json",
        answer=_plain_error,
        answers_to=_error,
    ),
    "accepts-bad-moves": Fault(
        "any value counts as a move",
        "a move other than left, right and forward is bad_value",
        game=_AcceptsBadMoves,
    ),
    "accepts-unknown-snakes": Fault(
        "a snake that never joined may move and be reset",
        "no snake of this id has joined: unknown_snake",
        game=_AcceptsUnknownSnakes,
    ),
    "wrong-window": Fault(
        "visible_cells are counted from the head, which is 0,0",
        "the head is in the middle of a window that begins at 0,0",
        game=_WrongWindow,
    ),
    "no-head": Fault("visible_cells lack the snake's own head", "visible_cells hold HEAD, in the middle", game=_NoHead),
    "shared-script": Fault(
        "a move of one snake moves all the others too",
        "a snake's moves are its own: the others go on with theirs",
        game=_SharedScript,
    ),
    "sticky-reset": Fault(
        "resets are answered and do nothing",
        "a reset ends the life with its last line and begins another",
        game=_StickyReset,
    ),
    "not-repeatable": Fault(
        "a random cell shows food, another one for every reader",
        "what is played follows from the seed and the moves; all readers of a snake see the same",
        game=_NotRepeatable,
    ),
}


class Faults:
    """The faults that were asked for, put together."""

    def __init__(self, names: Iterable[str], every: int = 1) -> None:
        self._faults = [FAULTS[name] for name in dict.fromkeys(names)]
        self._every = every
        self._counts = [count(1) for _ in self._faults]

    def game_type(self) -> type[Game]:
        """Return the class of the game, with every fault that is about it."""
        kinds = [fault.game for fault in self._faults if fault.game is not None]
        return type("FaultyGame", tuple(kinds), {}) if kinds else Game

    def stream(self, lines: Iterable[bytes]) -> Iterable[bytes]:
        """Return the lines as they leave the server."""
        for fault in self._faults:
            if fault.stream is not None:
                lines = fault.stream(lines, self._every)
        return lines

    def answer(self, route: str, response: Response) -> Response:
        """Return the answer of a route as it leaves the server."""
        for fault, numbers in zip(self._faults, self._counts, strict=True):
            if fault.answer is not None and fault.answers_to(route, response) and next(numbers) % self._every == 0:
                response = fault.answer(response)
        return response
