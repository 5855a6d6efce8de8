"""Checks of moves."""

from __future__ import annotations

import time

from rattle.conformance.agent_play import READY, expect_ticks, play_lives, state
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import Failed, expect, fail, skip
from rattle.conformance.streams import joined
from rattle.conformance.target import HttpAnswer, Target

CHECKS = CheckGroup()
#: A move that is answered later than this counts for a later tick in most games.
_PROMPT_SECONDS = 1.0
_COMPASS = ("north", "east", "south", "west")
_TURNS = {"left": -1, "right": 1, "forward": 0}


def _expect_move(answer: HttpAnswer, snake: str) -> bool:
    """Return game_over of a move's answer; end the check unless it is a whole one."""
    body = answer.object()
    got = body.get("snake_id")
    expect(got == snake, f"the answer to a move of {snake} has snake_id {got!r}", expected=snake, got=str(answer))
    over = body.get("game_over")
    expect(isinstance(over, bool), f"game_over is {over!r}", expected="true or false", got=str(answer))
    return over is True


@CHECKS.check("agent.moves.answer", "A move is answered with snake_id and game_over", ("agent.stream.join",))
def answer(target: Target) -> str:
    """All that were made in the lives that were played."""
    count = 0
    for life in target.fact(play_lives).lives:
        for _, _, got in life.mover.moves:
            if isinstance(got, Failed):
                raise got
            target.note(f"{got.request}  ->  {got}")
            _expect_move(got, life.reader.snake)
            count += 1
    return f"{count} moves were answered"


@CHECKS.check("agent.moves.words", "left, right and forward are moves", READY)
def words(target: Target) -> None:
    """Also several before one tick: the last counts, and all are answered."""
    with joined(target) as (reader,):
        for move in _TURNS:
            _expect_move(target.request("POST", f"/snake/{reader.snake}/move", {"move": move}), reader.snake)


@CHECKS.check("agent.moves.repeated", "A move that is sent again is answered again", READY)
def repeated(target: Target) -> None:
    """A client repeats it when an answer is lost."""
    with joined(target) as (reader,):
        for _ in range(3):
            _expect_move(target.request("POST", f"/snake/{reader.snake}/move", {"move": "forward"}), reader.snake)


@CHECKS.check("agent.moves.prompt", "A move is answered while it can still count", ("agent.moves.answer", *READY))
def prompt(target: Target) -> None:
    """Without waiting for anything; the fastest of three is judged."""
    waits = []
    with joined(target) as (reader,):
        for _ in range(3):
            before = time.monotonic()
            target.request("POST", f"/snake/{reader.snake}/move", {"move": "forward"})
            waits.append(time.monotonic() - before)
            if waits[-1] < _PROMPT_SECONDS:
                return
    fail(
        f"the fastest of {len(waits)} moves was answered after {min(waits):.1f} s: do not wait for a tick",
        expected=f"within {_PROMPT_SECONDS:g} s",
        got=f"{min(waits):.1f} s",
    )


@CHECKS.check(
    "agent.moves.dead", 'A move of a dead snake is answered with "game_over": true', ("agent.stream.last_line",)
)
def dead(target: Target) -> None:
    """It is no error: the move may have been on its way when the snake died."""
    for life in target.fact(play_lives).lives:
        got = life.after_death
        if isinstance(got, Failed):
            raise got
        target.note(f"{got.request}  ->  {got}")
        expect(
            _expect_move(got, life.reader.snake),
            "a move of a snake that has died is answered with game_over false",
            expected='"game_over": true',
            got=str(got),
        )


@CHECKS.check("agent.moves.unknown", "A move of a snake that never joined is unknown_snake")
def unknown(target: Target) -> None:
    """And does not make it join."""
    snake = target.new_snake()
    for _ in range(2):
        target.request("POST", f"/snake/{snake}/move", {"move": "left"}).problem(404, "unknown_snake")


@CHECKS.check(
    "agent.moves.steers", "left and right turn the snake's heading", ("agent.state.fields", "agent.moves.answer")
)
def steers(target: Target) -> None:
    """Judged by the heading in GET /state, where moves change it at all."""
    expect_ticks(target)
    changed = 0
    for move in ("left", "right", "left"):
        with joined(target) as (reader,):
            before = state(target)["status"][reader.snake]["heading"]
            target.request("POST", f"/snake/{reader.snake}/move", {"move": move})
            after = _heading_after(target, reader.snake, before)
        if after is None or after == before:
            continue
        changed += 1
        expect(before in _COMPASS, f"heading is {before!r}", expected=f"one of {', '.join(_COMPASS)}", got=before)
        wanted = _COMPASS[(_COMPASS.index(before) + _TURNS[move]) % 4]
        expect(
            after == wanted,
            f"a snake that went {before} and moved {move} goes {after}: moves are relative to the heading",
            expected=wanted,
            got=after,
        )
    if not changed:
        skip("moves change no heading: a server without a game, such as 'rattle mock-env', does so")


def _heading_after(target: Target, snake: str, before: str) -> str | None:
    """Return the heading when it has changed or a while has passed; None for a snake that is dead by then."""
    until = time.monotonic() + min(2.0, target.timeout)
    heading: str | None = before
    while heading == before and time.monotonic() < until:
        status = state(target)["status"].get(snake)
        heading = None if status is None or status["game_over"] else status["heading"]
        time.sleep(0.05)
    return heading


@CHECKS.check("agent.moves.forward", "forward keeps the heading", ("agent.moves.steers",))
def forward(target: Target) -> None:
    """For some ticks."""
    with joined(target) as (reader,):
        before = state(target)["status"][reader.snake]["heading"]
        for _ in range(3):  # four turns to one side would look like none
            count = len(reader.lines)
            target.request("POST", f"/snake/{reader.snake}/move", {"move": "forward"})
            reader.wait_lines(count + 1)
        status = state(target)["status"].get(reader.snake)
    if status is None or status["game_over"]:
        skip("the snake died too soon")
    after = status["heading"]
    expect(after == before, f"a snake that went {before} and moved forward goes {after}", expected=before, got=after)
