"""Readers of the agent API's streams, each in a thread of its own, and movers that answer their lines."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from rattle.conformance.judging import Failed, fail, shorten
from rattle.conformance.raw import open_socket
from rattle.conformance.target import HttpAnswer, Target

#: A move of a mover that only keeps the game going comes so long after the line, or games would end at once.
PACE_SECONDS = 0.05


@dataclass(frozen=True)
class StreamLine:
    """A line as it came: when (monotonic seconds), its text, and the object in it, None where there is none."""

    at: float
    text: str
    value: dict[str, Any] | None

    @property
    def over(self) -> bool:
        """Say whether it is the last of a life."""
        return self.value is not None and self.value.get("game_over") is True


class JoinedStream:
    """Reads a snake's stream until it ends or `close` is called; opening it joins the snake."""

    def __init__(self, target: Target, snake: str, query: str = "") -> None:
        self.target = target
        self.snake = snake
        self.path = f"/snake/{snake}{query}"
        self.opened = time.monotonic()
        self.status: int | None = None
        self.media_type = ""
        self.retry_after: str | None = None
        self.lines: list[StreamLine] = []
        #: Why nothing more comes: `end` (in an orderly way), `cut`, or `closed` by the reader itself.
        self.ended: str | None = None
        self.changed = threading.Condition()
        self._closing = False
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._read, name=f"reader of {snake}", daemon=True)
        self._thread.start()

    def wait(self, happened: Callable[[JoinedStream], object], seconds: float | None = None) -> bool:
        """Wait until `happened` holds, for the target's time-out unless told otherwise; return whether it does."""
        with self.changed:
            return bool(
                self.changed.wait_for(lambda: happened(self), self.target.timeout if seconds is None else seconds)
            )

    def wait_lines(self, count: int) -> None:
        """Wait for so many lines, or the end."""
        self.wait(lambda reader: len(reader.lines) >= count or reader.ended)

    def wait_tick(self, tick: int) -> None:
        """Wait a second at most for the line of a tick."""
        self.wait(lambda reader: any(line.value and line.value.get("tick") == tick for line in reader.lines), 1.0)

    def expect_line(self) -> StreamLine:
        """Return the first line; ends the check unless it comes in time."""
        self.wait(lambda reader: reader.lines or reader.ended)
        if self.status != 200:
            self.blame(f"GET {self.path} is not answered with a stream", expected="status 200", got=self._how())
        if not self.lines:
            self.blame(f"no line comes on GET {self.path}", expected="a first line at once", got=self._how())
        return self.lines[0]

    def first(self) -> dict[str, Any]:
        """Return the first line's object; ends the check unless it comes in time."""
        value = self.expect_line().value
        if value is None:
            self.blame("the first line is not a JSON object", got=self.lines[0].text)
        return value

    @property
    def over(self) -> bool:
        """Say whether the last line of the life has come."""
        return any(line.over for line in self.lines)

    def close(self, *, hard: bool = False) -> None:
        """Close the connection, with `hard` as a crash does, and wait for the thread."""
        self._closing = True
        if self._socket is not None:
            with suppress(OSError):  # it may have ended meanwhile
                if hard:
                    linger = struct.pack("ii", 1, 0)  # closing resets the connection
                    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(self.target.timeout)

    def blame(self, sentence: str, *, expected: object = None, got: object = None) -> NoReturn:
        """End the check, with what this stream brought as evidence."""
        self.target.note(f"GET {self.path}  ->  {self._how()}")
        for line in self.lines[-2:]:
            self.target.note(f"line {self.lines.index(line) + 1} of {self.snake}: {shorten(line.text, 200)}")
        fail(sentence, expected=expected, got=got)

    def _how(self) -> str:
        if self.status is None:
            return "no answer"
        ends = {None: "still open", "end": "ended", "cut": "the connection broke", "closed": "closed by the checker"}
        return f"{self.status} {self.media_type}, {len(self.lines)} lines, {ends[self.ended]}"

    def _read(self) -> None:
        how = "cut"
        try:
            with open_socket(self.target) as self._socket:
                how = self._read_lines(self._socket)
        except (OSError, http.client.HTTPException):
            pass
        with self.changed:
            self.ended = "closed" if self._closing else how
            self.changed.notify_all()

    def _read_lines(self, connection: socket.socket) -> str:
        connection.sendall(f"{self.target.head('GET', self.path)}Accept: application/x-ndjson, */*\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection, method="GET")
        response.begin()
        connection.settimeout(None)  # a stream may be silent for long; `close` wakes the thread
        with self.changed:
            self.status = response.status
            self.media_type = (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()
            self.retry_after = response.getheader("Retry-After")
            self.changed.notify_all()
        if response.status != 200:
            return "end"
        while line := response.readline():
            with self.changed:
                self.lines.append(_line(line))
                self.changed.notify_all()
        return "end"


def _line(content: bytes) -> StreamLine:
    try:
        value = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = None
    text = content.decode("utf-8", "backslashreplace").rstrip("\n")
    return StreamLine(time.monotonic(), text, value if isinstance(value, dict) else None)


class Mover:
    """Answers a reader's lines with moves until the stream ends; a move for the newest line whenever one came."""

    def __init__(self, reader: JoinedStream, choose: Callable[[int, StreamLine], str], pace: float = 0.0) -> None:
        self._reader = reader
        self._choose = choose
        self._pace = pace
        #: For each move: the index of the line that it answers, when the answer came, and the answer.
        self.moves: list[tuple[int, float, HttpAnswer | Failed]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._move, name=f"mover of {reader.snake}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Move no more."""
        self._stopped.set()
        self._thread.join(2 * self._reader.target.timeout)

    def _wait_beyond(self, count: int) -> bool:
        """Wait a moment for more lines than `count`; return whether there are."""
        self._reader.wait(lambda reader: len(reader.lines) > count or reader.ended, 0.2)
        return len(self._reader.lines) > count

    def _move(self) -> None:
        reader, answered = self._reader, 0
        while not self._stopped.is_set():
            if not self._wait_beyond(answered):
                if reader.ended:
                    return
                continue
            answered = len(reader.lines)
            if self._stopped.wait(self._pace):
                return
            move = self._choose(answered - 1, reader.lines[answered - 1])
            answer = post_move(reader.target, reader.snake, move)
            self.moves.append((answered - 1, time.monotonic(), answer))


def post_move(target: Target, snake: str, move: Any) -> HttpAnswer | Failed:
    """Send a move; return the answer, or the failure to get one, for the check to judge later."""
    try:
        return target.request("POST", f"/snake/{snake}/move", {"move": move})
    except Failed as failed:
        return failed


def _join(target: Target, query: str) -> JoinedStream:
    """Let a snake join; while the world is full of snakes that have just been left, try again for a while."""
    until = time.monotonic() + target.timeout
    while True:
        reader = JoinedStream(target, target.new_snake(), query)
        reader.wait(lambda reader: reader.status or reader.ended)
        if reader.status != 503 or time.monotonic() > until:
            return reader
        reader.close()
        time.sleep(0.25)


@contextmanager
def joined(target: Target, snakes: int = 1, *, moving: bool = False, query: str = "") -> Iterator[list[JoinedStream]]:
    """Let snakes join a new game, each with a reader; afterwards their streams are closed and the game is ended.

    With `moving` they go forward, line by line, for servers whose clock waits for moves.
    """
    readers = [_join(target, query) for _ in range(snakes)]
    movers: list[Mover] = []
    try:
        for reader in readers:
            reader.first()
        movers += [Mover(reader, lambda *_: "forward", PACE_SECONDS) for reader in readers if moving]
        yield readers
    finally:
        kept = target.evidence
        for mover in movers:
            mover.stop()
        for reader in readers:
            reader.close()
        with suppress(Failed):  # clearing up is not what the check is about
            target.request("POST", "/reset")
        target.evidence = kept
