"""Checks of resets, of joining again, and of the seed."""

from __future__ import annotations

import time
from itertools import cycle, islice, pairwise
from typing import Any

from rattle.conformance.agent_play import READY, capacity, clock, expect_ticks, several, state
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import Failed, expect, skip
from rattle.conformance.streams import JoinedStream, Mover, StreamLine, joined
from rattle.conformance.target import Target

CHECKS = CheckGroup()
#: Lines that come longer after a reset's answer than this belong to a life that continues.
_GRACE_SECONDS = 0.5
_TRIES = 4
_DETERMINISM_SECONDS = 10.0
#: Ticks that two games of one seed are compared for, and the moves.
_TICKS = 12
_MOVES = ("forward", "left", "forward", "right", "forward", "forward", "right")


def _ended_by(reader: JoinedStream, answered: float) -> bool:
    """Wait for a stream's end; return whether the life ended when the reset was answered, and not later by itself."""
    reader.wait(lambda reader: reader.ended or reader.over)
    return reader.over and not any(line.at > answered + _GRACE_SECONDS for line in reader.lines)


@CHECKS.check("agent.resets.answer", 'POST /reset answers {"game_over": false, "seed": n}')
def answer(target: Target) -> None:
    """With a seed, with an empty object, and without a body."""
    for body, seed in (({"seed": 7}, 7), ({"seed": 0}, 0), ({"seed": 2**63 - 1}, 2**63 - 1), ({}, None), (None, None)):
        got = target.request("POST", "/reset", body)
        found = got.object()
        expect(found.get("game_over") is False, "game_over must be false", expected='"game_over": false', got=str(got))
        value = found.get("seed")
        expect(type(value) is int, f"seed is {value!r}", expected="an integer", got=str(got))
        if seed is not None:
            expect(value == seed, f"the answer says seed {value} after a reset with {seed}", expected=seed, got=value)


@CHECKS.check(
    "agent.resets.world",
    "POST /reset ends every snake's life with its last line",
    ("agent.stream.first", "agent.stream.last_line"),
)
def world(target: Target) -> None:
    """All streams at once."""
    for left in reversed(range(_TRIES)):
        with joined(target, several(target)) as readers:
            target.request("POST", "/reset").object()
            answered = time.monotonic()
            ended = [_ended_by(reader, answered) for reader in readers]
            if all(ended):
                for reader in readers:
                    if not reader.wait(lambda reader: reader.ended):
                        reader.blame("the stream stays open after POST /reset", expected="its end")
                return
            if not left:
                readers[ended.index(False)].blame(
                    "POST /reset is answered, but a snake's life continues",
                    expected='a line with "game_over": true, and the end of the stream',
                )


@CHECKS.check("agent.resets.episode", "POST /reset begins the next game", ("agent.state.fields",))
def episode(target: Target) -> None:
    """GET /state says which: by its seed, and its number in episode."""
    games = []
    for body in ({"seed": 77}, None, None):
        target.request("POST", "/reset", body)
        with joined(target):
            found = state(target)
        expect(found["global_game_over"] is False, "global_game_over is true while a snake lives", expected=False)
        if body:
            seed = found["seed"]
            expect(seed == 77, f"GET /state says seed {seed} after a reset with seed 77", expected=77, got=seed)
        games.append({"seed": found["seed"], "episode": found["episode"]})
    for before, after in pairwise(games):
        expect(
            before != after,
            f"GET /state says seed {after['seed']}, episode {after['episode']} before and after POST /reset: "
            "the next game has another number",
            expected="a higher episode",
            got=after,
        )


@CHECKS.check("agent.resets.bad_seed", "A seed that is not a whole number from 0 to 2^63 - 1 is bad_value")
def bad_seed(target: Target) -> None:
    """And fields that are not known are named."""
    for seed in (-1, 2**63, 1.5, "7", True, [1]):
        target.request("POST", "/reset", {"seed": seed}).problem(400, "bad_value", "seed")
    target.request("POST", "/reset", {"sede": 1}).problem(400, "bad_value", "sede")


@CHECKS.check("agent.resets.body", "A reset whose body is not an object is bad_request")
def body(target: Target) -> None:
    """Broken JSON and JSON of another type."""
    for content in (b"{", b"[]", b"seed=1", b'{"seed": NaN}'):
        codes = ("bad_request", "bad_value") if b"NaN" in content else "bad_request"
        target.request("POST", "/reset", content=content).problem(400, codes)


@CHECKS.check("agent.resets.rejoin", "A dead snake may join again", READY)
def rejoin(target: Target) -> None:
    """Its new life begins with reward 0."""
    with joined(target) as (reader,):
        target.request("POST", "/reset")
        reader.wait(lambda reader: reader.ended)
        again = JoinedStream(target, reader.snake)
        try:
            value = again.first()
        finally:
            again.close()
    expect(value["game_over"] is False, "the first line of a new life says game_over true", got=value)
    expect(value["reward"] == 0, f"the first line of a new life has reward {value['reward']}", expected=0, got=value)


@CHECKS.check("agent.resets.snake", "POST /snake/{id}/reset ends that snake's life and gives it a new one", READY)
def snake(target: Target) -> None:
    """Its stream ends with a last line, and the next GET shows the new life."""
    for left in reversed(range(_TRIES)):
        with joined(target) as (reader,):
            got = target.request("POST", f"/snake/{reader.snake}/reset")
            answered = time.monotonic()
            found = got.object()
            wanted = {"snake_id": reader.snake, "game_over": False}
            for name, value in wanted.items():
                expect(found.get(name) == value, f"{name} is {found.get(name)!r}", expected=wanted, got=str(got))
            if _ended_by(reader, answered):
                again = JoinedStream(target, reader.snake)
                first = again.first()
                again.close()
                expect(first["game_over"] is False, "the new life begins with game_over true", got=first)
                return
            if not left:
                reader.blame(
                    f"POST /snake/{reader.snake}/reset is answered, but the life continues",
                    expected='a line with "game_over": true, and the end of the stream',
                )


@CHECKS.check(
    "agent.resets.snake_alone",
    "The reset of a snake leaves the others alone",
    ("agent.resets.snake", "agent.stream.own"),
)
def snake_alone(target: Target) -> None:
    """Their streams continue."""
    if capacity(target) < 2:
        skip("the server has room for one snake only")
    for left in reversed(range(_TRIES)):
        with joined(target, 2, moving=True) as (one, other):
            target.request("POST", f"/snake/{one.snake}/reset").object()
            one.wait(lambda reader: reader.ended)
            count = len(other.lines)
            other.wait_lines(count + 1)
            if not other.over and (len(other.lines) > count or clock(target) == "sync"):
                return
            if not left:
                other.blame(
                    f"the stream of another snake stops or ends when one is reset ({_TRIES} tries)",
                    expected="a line a tick",
                )


@CHECKS.check("agent.resets.snake_unknown", "The reset of a snake that never joined is unknown_snake")
def snake_unknown(target: Target) -> None:
    """And does not make it join."""
    name = target.new_snake()
    for _ in range(2):
        target.request("POST", f"/snake/{name}/reset").problem(404, "unknown_snake")


@CHECKS.check("agent.resets.determinism", "The same seed and the same moves give the same game", READY)
def determinism(target: Target) -> str:
    """What one snake sees, its rewards and its length, tick by tick."""
    expect_ticks(target)
    games: list[list[dict[str, Any]]] = []
    until = time.monotonic() + _DETERMINISM_SECONDS
    while len(games) < 2:
        game = _play(target)
        if game is not None:
            games.append(game)
        elif time.monotonic() > until:
            skip(f"for {_DETERMINISM_SECONDS:g} s, moves came too late for their ticks: no two games can be compared")
    common = min(map(len, games))
    for number, (one, other) in enumerate(zip(*games, strict=False), 1):
        for name in ("visible_cells", "reward", "length"):
            if one[name] != other[name]:
                target.note(f"line {number} of the first game: {one}")
                target.note(f"line {number} of the second game: {other}")
            expect(
                one[name] == other[name],
                f"{name} differs in line {number} of two games with the same seed and moves",
                expected=_unlike(one[name], other[name]),
                got=_unlike(other[name], one[name]),
            )
    return f"two games of one seed were the same for {common} lines"


def _unlike(value: Any, other: Any) -> Any:
    """Return `value`, of an object only what `other` has otherwise."""
    if isinstance(value, dict) and isinstance(other, dict):
        return {key: part for key, part in value.items() if other.get(key) != part}
    return value


def _play(target: Target) -> list[dict[str, Any]] | None:
    """Return the lines of a game of a fixed seed with fixed moves; None where a move came too late for its tick."""
    moves = list(islice(cycle(_MOVES), _TICKS))
    target.request("POST", "/reset", {"seed": 4711}).object()
    with joined(target, query="?lines=all") as (reader,):
        mover = Mover(reader, lambda number, line: moves[number] if number < _TICKS else "forward")
        reader.wait(lambda reader: len(reader.lines) > _TICKS or reader.ended or reader.over)
        mover.stop()
        lines = reader.lines[: _TICKS + 1]
    if len(lines) < 3 or not _in_time(mover, lines, waits=clock(target) == "turns"):
        return None
    return [line.value for line in lines if line.value]


def _in_time(mover: Mover, lines: list[StreamLine], *, waits: bool) -> bool:
    """Say whether each line was answered, before the next one came unless the clock waits for moves."""
    answered = {number: at for number, at, got in mover.moves if not isinstance(got, Failed)}
    for number in range(len(lines) - 1):
        if number not in answered or not (waits or answered[number] < lines[number + 1].at):
            return False
    return True
