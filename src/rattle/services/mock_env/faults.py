"""Faults on request: each breaks one rule of the agent API in a way that a client or a checker should notice.

A fault acts in one of three places: on the game, on the lines of a stream, or on answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from flask import Response

from rattle.services.mock_env import effects
from rattle.services.mock_env.effects import LATE_LINE_SECONDS, LATE_SECONDS, each, edit
from rattle.services.mock_env.errors import MockEnvError
from rattle.services.mock_env.game import ScriptedGame


@dataclass(frozen=True)
class Fault:
    """What a faulty server does, the rule that this breaks, and the one place where it does it.

    With `--fault-every N` every N-th line or answer is faulty; what is wrong with the game is wrong all the time.
    """

    description: str
    rule: str
    game: type[ScriptedGame] | None = None
    stream: effects.Stream | None = None
    answer: Callable[[Response], Response] | None = None
    answers_to: Callable[[str, Response], bool] = effects.whole


#: Every fault by its name; several at once are applied in this order, so that what spoils a line comes last.
FAULTS: dict[str, Fault] = {
    "late": Fault(
        f"answers to moves come {LATE_SECONDS:g} seconds late",
        "a move is answered while it can still count",
        answer=effects.late_answer,
        answers_to=effects.to_move,
    ),
    "late-lines": Fault(
        f"lines come {LATE_LINE_SECONDS:g} second after they were made",
        "every tick has its line at once",
        stream=each(effects.late_line),
    ),
    "cut-stream": Fault(
        "a stream's connection breaks after N lines, before the last one",
        "a stream ends after the line with game_over true",
        stream=effects.cut,
    ),
    "cut-answer": Fault(
        "the connection closes in the middle of an answer",
        "answers are complete",
        answer=effects.cut_answer,
        answers_to=effects.whole,
    ),
    "malformed-answer": Fault(
        "an answer is half of its JSON", "answers are JSON", answer=effects.malformed_answer, answers_to=effects.whole
    ),
    "missing-field": Fault(
        "a line has no reward", "a line has all seven fields", stream=edit(lambda line: line.pop("reward"))
    ),
    "wrong-type": Fault(
        "a line's tick is a string", "tick is a number", stream=edit(lambda line: line.update(tick=str(line["tick"])))
    ),
    "out-of-order": Fault("a line and the next one are swapped", "lines come in order", stream=effects.swap),
    "repeated-line": Fault("a line comes twice", "a tick has one line", stream=each(lambda line: [line, line])),
    "skipped-tick": Fault(
        "after N lines one is left out, also for readers with lines=all",
        "lines=all leaves out no line",
        stream=effects.skip,
    ),
    "after-end": Fault(
        "a line follows the one with game_over true",
        "the line with game_over true is the last",
        stream=effects.after_end,
    ),
    "malformed-line": Fault(
        "a line is cut in half, so it is not JSON",
        "a stream is application/x-ndjson",
        stream=each(lambda line: [line[: len(line) // 2] + b"\n"]),
    ),
    "no-end": Fault(
        "no line has game_over true: scripts continue forever, and a reset only closes their streams",
        "the last line of a life has game_over true",
        game=effects.NoEnd,
    ),
    "error-500": Fault(
        "a move is answered with status 500 and an HTML page",
        "the answer to a valid move is 200, and errors are problem+json",
        answer=effects.error_500,
        answers_to=effects.to_move,
    ),
    "plain-errors": Fault(
        "errors are plain text",
        "answers with a status of 400 or more are problem+json",
        answer=effects.plain_error,
        answers_to=effects.error,
    ),
    "accepts-bad-moves": Fault(
        "any value counts as a move",
        "a move other than left, right and forward is bad_value",
        game=effects.AcceptsBadMoves,
    ),
    "accepts-unknown-snakes": Fault(
        "a snake that never joined may move and be reset",
        "no snake of this id has joined: unknown_snake",
        game=effects.AcceptsUnknownSnakes,
    ),
    "wrong-window": Fault(
        "visible_cells are counted from the head, which is 0,0",
        "the head is in the middle of a window that begins at 0,0",
        game=effects.WrongWindow,
    ),
    "no-head": Fault(
        "visible_cells lack the snake's own head", "visible_cells have HEAD in the middle", game=effects.NoHead
    ),
    "shared-script": Fault(
        "all snakes follow the script of the first: its id is in their lines, and a move of one moves all",
        "lines are about the snake of the request, and a move moves one snake",
        game=effects.SharedScript,
    ),
    "sticky-reset": Fault(
        "resets get an answer and do nothing",
        "a reset ends the life with its last line and starts another",
        game=effects.StickyReset,
    ),
    "not-repeatable": Fault(
        "a random cell shows food, a different one for every reader",
        "the game depends only on the seed and the moves; all readers of a snake see the same",
        game=effects.NotRepeatable,
    ),
}


class Faults:
    """The faults that were asked for, put together."""

    def __init__(self, names: Sequence[str], every: int = 1) -> None:
        unknown = [name for name in names if name not in FAULTS]
        if unknown:
            raise MockEnvError(f"there is no fault '{unknown[0]}': 'rattle mock-env --help' lists them")
        self._faults = [fault for name, fault in FAULTS.items() if name in names]
        self._every = every
        self._counts = [count(1) for _ in self._faults]

    def game_type(self) -> type[ScriptedGame]:
        """Return the class of the game, with every fault that is about it."""
        kinds = [fault.game for fault in self._faults if fault.game is not None]
        return type("FaultyGame", tuple(kinds), {}) if kinds else ScriptedGame

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
