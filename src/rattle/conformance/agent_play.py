"""What the checks of the agent API learn once: health, state, and whole lives that were played."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rattle.conformance.judging import Failed, skip
from rattle.conformance.steering import steer
from rattle.conformance.streams import JoinedStream, Mover, post_move
from rattle.conformance.target import HttpAnswer, Target

#: What must work before other checks can let snakes join, and be rid of them again.
READY = ("agent.stream.first", "agent.stream.last_line", "agent.resets.world")
_MOST_SNAKES = 3
#: Lives that have not ended after so long are ended with POST /reset.
_LIFE_SECONDS = 12.0


@dataclass(frozen=True)
class PlayedLife:
    """A life from joining to its end: what was read, the moves, and a move after the end."""

    reader: JoinedStream
    mover: Mover
    after_death: HttpAnswer | Failed


@dataclass(frozen=True)
class Lives:
    """Lives that were played at once; `by_reset` says that they had to be ended with POST /reset."""

    lives: list[PlayedLife]
    by_reset: bool
    #: GET /state when all had ended.
    state: HttpAnswer | Failed

    @property
    def readers(self) -> list[JoinedStream]:
        """Return the streams."""
        return [life.reader for life in self.lives]


def health(target: Target) -> dict[str, Any]:
    """Return the answer of GET /."""
    return target.request("GET", "/").object()


def state(target: Target) -> dict[str, Any]:
    """Return the answer of GET /state."""
    return target.request("GET", "/state").object()


def capacity(target: Target) -> int:
    """Return how many snakes the server has room for, 1 where it does not say."""
    with suppress(Failed):
        found = target.fact(health).get("capacity")
        if type(found) is int and found >= 1:
            return found
    return 1


def clock(target: Target) -> object:
    """Return what the server says of its clock."""
    with suppress(Failed):
        return target.fact(health).get("clock")
    return None


def expect_ticks(target: Target) -> None:
    """Skip the check where the clock is driven from outside and nothing drives it."""
    readers = target.fact(play_lives).readers
    if clock(target) == "sync" and all(len(reader.lines) <= 2 for reader in readers):
        skip("nothing ticks the sync clock")


def several(target: Target) -> int:
    """Return how many snakes join at once."""
    return min(capacity(target), _MOST_SNAKES)


def play_lives(target: Target) -> Lives:
    """Let several snakes join at once and play until each has died; the checks of streams judge this."""
    with suppress(Failed):
        target.request("POST", "/reset", {"seed": 1})
    readers = [JoinedStream(target, target.new_snake()) for _ in range(several(target))]
    movers = [Mover(reader, lambda number, line: steer(number, line.value)) for reader in readers]
    until = time.monotonic() + (target.timeout if clock(target) == "sync" else _LIFE_SECONDS)
    for reader in readers:
        reader.wait(lambda reader: reader.ended or reader.over, max(0.0, until - time.monotonic()))
    by_reset = not all(reader.ended or reader.over for reader in readers)
    if by_reset:
        with suppress(Failed):
            target.request("POST", "/reset")
    for reader in readers:
        reader.wait(lambda reader: reader.ended)
    stopped = _state(target)
    lives = []
    for reader, mover in zip(readers, movers, strict=True):
        mover.stop()
        lives.append(PlayedLife(reader, mover, post_move(target, reader.snake, "forward")))
        reader.close()
    return Lives(lives, by_reset, stopped)


def _state(target: Target) -> HttpAnswer | Failed:
    try:
        return target.request("GET", "/state")
    except Failed as failed:
        return failed
