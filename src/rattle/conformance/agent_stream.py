"""Checks of streams, judged on whole lives of several snakes at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

from rattle.conformance.agent_play import READY, Lives, expect_ticks, health, play_lives, several
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import expect, kind, skip
from rattle.conformance.raw import open_socket
from rattle.conformance.streams import PACE_SECONDS, JoinedStream, Mover, StreamLine, joined
from rattle.conformance.target import Target

CHECKS = CheckGroup()
_JOIN = ("agent.stream.join",)
_FIELDS = ("agent.stream.fields",)
#: How long the first line may take beyond a round trip; it needs no tick to wait for.
_AT_ONCE = 0.5
_LINE: dict[str, tuple[type, ...]] = {
    "snake_id": (str,),
    "tick": (int,),
    "visible_cells": (dict,),
    "reward": (int, float),
    "game_over": (bool,),
    "datetime": (str,),
    "length": (int,),
}
_TRIES = 3
_NAMES = ("EMPTY", "FOOD", "HEAD", "BODY", "OTHER_HEAD", "OTHER_BODY")


def _values(lives: Lives) -> Iterator[tuple[JoinedStream, int, dict[str, Any]]]:
    for reader in lives.readers:
        for number, line in enumerate(reader.lines):
            if line.value is not None:
                yield reader, number, line.value


@CHECKS.check("agent.stream.join", "Several snakes join at once, and each gets its stream")
def join(target: Target) -> str:
    """Plays the lives that the checks below judge."""
    lives = target.fact(play_lives)
    for reader in lives.readers:
        reader.expect_line()
    lines = sum(len(reader.lines) for reader in lives.readers)
    how = "ended by POST /reset, because they did not end by themselves in time" if lives.by_reset else "to their ends"
    return f"{len(lives.readers)} snakes were played at once, {how}: {lines} lines"


@CHECKS.check("agent.stream.type", "A stream is application/x-ndjson", _JOIN)
def media_type(target: Target) -> None:
    """By its Content-Type."""
    for reader in target.fact(play_lives).readers:
        if reader.media_type != "application/x-ndjson":
            reader.blame(
                f"a stream comes as '{reader.media_type}'", expected="application/x-ndjson", got=reader.media_type
            )


@CHECKS.check("agent.stream.lines", "Every line is one JSON object", _JOIN)
def lines(target: Target) -> None:
    """No empty lines, no lines in parts."""
    for reader in target.fact(play_lives).readers:
        for number, line in enumerate(reader.lines, 1):
            if line.value is None:
                reader.blame(f"line {number} of a stream is not a JSON object", expected="an object", got=line.text)


@CHECKS.check("agent.stream.fields", "Every line has its seven fields, each of its type", ("agent.stream.lines",))
def line_fields(target: Target) -> None:
    """A boolean is no number."""
    for reader, number, value in _values(target.fact(play_lives)):
        for name, types in _LINE.items():
            if name not in value:
                reader.blame(f"line {number + 1} lacks {name}", expected=", ".join(_LINE), got=", ".join(value))
            fits = isinstance(value[name], types) and (bool in types or not isinstance(value[name], bool))
            if not fits:
                reader.blame(
                    f"{name} in line {number + 1} is {kind(value[name])}",
                    expected=" or ".join(kind(made()) for made in types),
                    got=value[name],
                )
        if value["length"] < 1 or value["tick"] < 0:
            reader.blame(f"line {number + 1} has length {value['length']} and tick {value['tick']}", got=value)


@CHECKS.check("agent.stream.own", "The lines of a stream are about the snake that was asked for", _FIELDS)
def own(target: Target) -> None:
    """By snake_id."""
    for reader, number, value in _values(target.fact(play_lives)):
        if value["snake_id"] != reader.snake:
            reader.blame(
                f"line {number + 1} of the stream of {reader.snake} is about {value['snake_id']}",
                expected=reader.snake,
                got=value["snake_id"],
            )


@CHECKS.check("agent.stream.first", "The first line comes at once, with reward 0", _FIELDS)
def first(target: Target) -> None:
    """It does not wait for a tick."""
    waits = []
    for _ in range(3):
        before = time.monotonic()
        target.request("GET", "/")
        trip = time.monotonic() - before
        with joined(target) as (reader,):
            value = reader.first()
            waits.append(reader.lines[0].at - reader.opened - 2 * trip)
        expect(value["reward"] == 0, f"the first line of a snake that has just joined has reward {value['reward']}")
        expect(value["game_over"] is False, "the first line of a snake that has just joined says game_over true")
        if waits[-1] < _AT_ONCE:
            return
    expect(
        False,
        f"the first line comes {min(waits):.1f} s after the request: it says how things stand when the reader arrives, "
        "and must not wait for a tick",
        expected=f"within {_AT_ONCE:g} s",
        got=f"{min(waits):.1f} s",
    )


@CHECKS.check("agent.stream.order", "Ticks rise from line to line: none is repeated or late", _FIELDS)
def order(target: Target) -> None:
    """In all streams at once."""
    for reader in target.fact(play_lives).readers:
        ticks = [line.value["tick"] for line in reader.lines if line.value]
        for number, (before, tick) in enumerate(pairwise(ticks), 2):
            if tick <= before:
                what = "comes twice" if tick == before else f"comes after tick {before}"
                reader.blame(f"tick {tick} {what} (line {number})", expected=before + 1, got=tick)


@CHECKS.check("agent.stream.all_lines", "With ?lines=all ticks rise by exactly 1", ("agent.stream.order", *READY))
def all_lines(target: Target) -> None:
    """No tick is left out."""
    expect_ticks(target)
    with joined(target, query="?lines=all", moving=True) as (reader,):
        reader.wait_lines(12)
        ticks = [line.value["tick"] for line in reader.lines if line.value]
    if len(ticks) < 3:
        skip(f"only {len(ticks)} lines came within {target.timeout:g} s")
    for before, tick in pairwise(ticks):
        if tick != before + 1:
            reader.blame(f"after tick {before} comes tick {tick}", expected=before + 1, got=tick)


@CHECKS.check("agent.stream.last_line", "The last line of a snake's life has game_over true", _FIELDS)
def last_line(target: Target) -> None:
    """By death, or when POST /reset ends the game."""
    lives = target.fact(play_lives)
    for reader in lives.readers:
        if reader.over:
            continue
        if lives.by_reset:
            reader.blame(
                "POST /reset ended the game, but no line with game_over true came", expected='"game_over": true'
            )
        how = "broke off" if reader.ended == "cut" else "ended"
        reader.blame(f"the stream {how} without a line with game_over true", expected='"game_over": true')


@CHECKS.check("agent.stream.nothing_after", "Nothing comes after the line with game_over true", _FIELDS)
def nothing_after(target: Target) -> None:
    """It is the last of the life and of the stream."""
    for reader in target.fact(play_lives).readers:
        over = [number for number, line in enumerate(reader.lines) if line.over]
        if over and over[0] + 1 < len(reader.lines):
            more = reader.lines[over[0] + 1]
            reader.blame("a line comes after the one with game_over true", expected="the end", got=more.text)


@CHECKS.check("agent.stream.end", "The stream closes cleanly after the last line", ("agent.stream.last_line",))
def end(target: Target) -> None:
    """The answer is complete; the connection neither stays open nor breaks."""
    for reader in target.fact(play_lives).readers:
        if reader.ended == "cut":
            reader.blame("the connection breaks instead of ending the answer", expected="the last chunk", got="a cut")
        if reader.ended != "end":
            reader.blame(
                f"the stream is still open {target.timeout:g} s after the line with game_over true",
                expected="the end of the answer",
                got="an open connection",
            )


@CHECKS.check("agent.stream.window", "visible_cells are the diamond around the head, which is in the middle", _FIELDS)
def window(target: Target) -> None:
    """Every cell within L1 distance r, and no other; names are the known ones."""
    sizes = set()
    for reader, number, value in _values(target.fact(play_lives)):
        cells = value["visible_cells"]
        where = f"visible_cells in line {number + 1}"
        heads = [key for key, name in cells.items() if name == "HEAD"]
        if len(heads) != 1:
            reader.blame(f"{where} hold HEAD {len(heads)} times, not once: the snake's own head", got=cells)
        odd = sorted({str(name) for name in cells.values()} - set(_NAMES))
        if odd:
            reader.blame(f"{where} hold {odd[0]!r}", expected=f"one of {', '.join(_NAMES)}", got=odd)
        x, _, y = heads[0].partition(",")
        radius = int(x) if x.isdecimal() else 0
        if x != y or radius < 1:
            reader.blame(
                f"the head is at '{heads[0]}' in {where}: the window begins at 0,0 and has the head in its middle",
                expected="'r,r', for sight of 5 cells '5,5'",
                got=heads[0],
            )
        wanted = {f"{i},{j}" for i, j in _diamond(radius)}
        if wanted != cells.keys():
            missing, more = sorted(wanted - cells.keys()), sorted(cells.keys() - wanted)
            reader.blame(
                f"{where} are not the {len(wanted)} cells within distance {radius} of the head",
                expected=f"{len(wanted)} cells",
                got=f"missing: {' '.join(missing) or 'none'}; too many: {' '.join(more) or 'none'}",
            )
        sizes.add(radius)
    expect(len(sizes) == 1, "the window is not always of one size", got=sorted(sizes))


def _diamond(radius: int) -> Iterator[tuple[int, int]]:
    side = range(2 * radius + 1)
    return ((x, y) for x in side for y in side if abs(x - radius) + abs(y - radius) <= radius)


@CHECKS.check("agent.stream.neck", "The snake looks up: its neck is the cell below its head", ("agent.stream.window",))
def neck(target: Target) -> None:
    """Turned so, whatever its heading is."""
    for reader, number, value in _values(target.fact(play_lives)):
        cells = value["visible_cells"]
        radius = int(next(key for key, name in cells.items() if name == "HEAD").partition(",")[0])
        below = f"{radius},{radius + 1}"
        if value["length"] > 1 and cells[below] != "BODY":
            reader.blame(
                f"the cell below the head, '{below}', is {cells[below]} in line {number + 1}, not BODY: "
                "what a snake sees is turned so that it looks up",
                expected="BODY",
                got=cells[below],
            )


@CHECKS.check("agent.stream.datetime", "datetime is ISO 8601 with an offset, and never goes back", _FIELDS)
def moments(target: Target) -> None:
    """A client need not know the server's time zone."""
    for reader in target.fact(play_lives).readers:
        before: datetime | None = None
        for number, line in enumerate(reader.lines, 1):
            text = line.value["datetime"] if line.value else ""
            moment = _moment(text)
            if moment is None or moment.tzinfo is None:
                reader.blame(
                    f"datetime in line {number} is {text!r}, not ISO 8601 with an offset from UTC",
                    expected="2026-01-31T12:00:00.000000+00:00",
                    got=text,
                )
            elif before is not None and moment < before:
                reader.blame(f"datetime goes back in line {number}", expected=f"not before {before}", got=text)
            before = moment


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


@CHECKS.check("agent.stream.readers", "Several readers of one snake get the same lines", READY)
def readers(target: Target) -> None:
    """The first of each apart, which says how things stood when it came."""
    expect_ticks(target)
    for _ in range(_TRIES):
        with joined(target) as (one,):
            other = JoinedStream(target, one.snake)
            other.first()
            died = one.over
            mover = Mover(other, lambda *_: "forward", PACE_SECONDS)
            for reader in (one, other):
                reader.wait_lines(8)
            mover.stop()
            other.close()
        theirs, mine = _by_tick(one.lines[1:]), _by_tick(other.lines[1:])
        both = sorted(theirs.keys() & mine.keys())
        if died or not both:
            continue  # the second reader came too late for this life
        for tick in both:
            if theirs[tick] != mine[tick]:
                one.blame(
                    f"two readers of one snake get different lines for tick {tick}",
                    expected=theirs[tick],
                    got=mine[tick],
                )
        return
    skip(f"two readers of one snake had no tick in common in {_TRIES} tries")


@CHECKS.check("agent.stream.one_snake", "A second reader of a snake is not a second snake", ("agent.health.agents",))
def one_snake(target: Target) -> None:
    """It joins once."""
    with joined(target) as (one,):
        other = JoinedStream(target, one.snake)
        other.first()
        agents = health(target)["agents"]
        other.close()
        if one.over:
            skip("the snake died too soon")
    expect(agents == 1, f"GET / counts {agents} agents with two readers of one snake", expected=1, got=agents)


@CHECKS.check("agent.stream.apart", "A connection that breaks does not disturb other streams", READY)
def apart(target: Target) -> None:
    """One reader crashes in the middle; the others read on."""
    expect_ticks(target)
    with joined(target, several(target), moving=True) as others:
        crashing = JoinedStream(target, others[0].snake)
        crashing.first()
        crashing.close(hard=True)
        for reader in others:
            count = len(reader.lines)
            reader.wait_lines(count + 2)
            if reader.ended == "cut":
                reader.blame(
                    "a stream broke when the connection of another reader did", expected="its lines", got="a cut"
                )
            if len(reader.lines) == count and not reader.over:
                reader.blame(
                    f"no line came within {target.timeout:g} s after the connection of another reader broke",
                    expected="a line a tick",
                )


@CHECKS.check("agent.stream.half_close", "A reader that closes its sending side (half-closed) does no harm", READY)
def half_close(target: Target) -> None:
    """The server may continue or hang up; other requests are answered."""
    with open_socket(target) as connection:
        connection.sendall(f"{target.head('GET', f'/snake/{target.new_snake()}')}\r\n".encode())
        connection.shutdown(socket.SHUT_WR)
        connection.recv(4096)
    target.request("POST", "/reset").object()
    with joined(target):
        pass


@CHECKS.check("agent.stream.lines_value", "?lines= accepts only the value all", _JOIN)
def lines_value(target: Target) -> None:
    """A misspelt wish is not ignored."""
    target.request("GET", f"/snake/{target.new_snake()}?lines=some").problem(400, "bad_value", "lines")


def _by_tick(found: list[StreamLine]) -> dict[int, dict[str, Any]]:
    return {line.value["tick"]: line.value for line in found if line.value}
