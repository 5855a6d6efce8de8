"""Files of an outbox, each with some of its messages in their order."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rattle.telemetry.messages import Importance, Message, dump_message, read_message

_SUFFIX = ".messages"


class Segment:
    """Some messages of one importance, in a file or, where the disk does not take them, in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.size = 0  # bytes of whole records
        self.closed = False
        self.next = 0  # where the message begins that is handed out next
        self.waiting: dict[int, int] = {}  # rows, by the number of the message, of those that are not confirmed
        self.in_flight: set[int] = set()  # numbers of those that were handed out, and are not confirmed
        self._memory = io.BytesIO() if path is None else None
        self.damaged_rows = 0  # that could not be read back
        self._synced = 0
        self._file: int | None = None
        self._opened()

    @property
    def is_done(self) -> bool:
        """Whether it is closed, and all that it held has arrived."""
        return self.closed and not self.waiting

    @property
    def rows(self) -> int:
        """Return how many rows have not arrived yet."""
        return sum(self.waiting.values())

    def append(self, message: Message) -> None:
        """Add a message; raises OSError, with the file as it was, when the disk does not take it."""
        record = dump_message(message)
        if self._memory is not None:
            self._memory.seek(self.size)
            self._memory.write(record)
        else:
            self._write(record, self.size)
        self.size += len(record)
        self.waiting[message.number] = message.rows

    def take(self) -> Message | None:
        """Return the next message that has neither arrived nor was handed out, None where there is none.

        Raises OSError where the file cannot be read now.
        """
        while self.next < self.size:
            found = read_message(self._read, self.next)
            if found is None:
                self._give_up()
                break
            message, self.next = found
            if message.number in self.waiting and message.number not in self.in_flight:
                self.in_flight.add(message.number)
                return message
        if self.closed:
            self._free()
        return None

    def _give_up(self) -> None:
        """Count what follows a damaged record as lost: nothing after it can be found."""
        self.next = self.size
        for number in self.waiting.keys() - self.in_flight:
            self.damaged_rows += self.waiting.pop(number)

    def confirm(self, number: int) -> None:
        """Take note that a message has arrived."""
        self.waiting.pop(number, None)
        self.in_flight.discard(number)

    def rewind(self) -> None:
        """Hand out again what has not arrived."""
        if self.in_flight:
            self.in_flight.clear()
            self.next = 0

    def find_messages(self) -> int:
        """Take note of the messages that a dead process has left in the file; return how many bytes were damaged.

        Raises OSError where the file cannot be read.
        """
        while (found := read_message(self._read, self.size)) is not None:
            message, self.size = found
            self.waiting[message.number] = message.rows
        damaged = os.fstat(self._opened()).st_size - self.size
        self.close()
        return damaged

    def close(self) -> None:
        """Take no more messages."""
        self.closed = True
        self._free()

    def move_to(self, path: Path) -> None:
        """Write what waits in memory to a file; raises OSError, with all as it was, when the disk does not take it."""
        content, self.path = b"".join(self._records_that_wait()), path
        try:
            self._write(content, 0)
        except OSError:
            self._free()
            with suppress(OSError):
                path.unlink()
            self.path = None
            raise
        self._memory = None
        self.size, self.next = len(content), 0
        self._free()

    def _records_that_wait(self) -> Iterator[bytes]:
        start = 0
        while (found := read_message(self._read, start)) is not None:
            message, start = found
            if message.number in self.waiting:
                yield dump_message(message)

    def sync(self) -> None:
        """Bring the file to the disk; raises OSError."""
        reached = self.size
        if self.path is None or not self.waiting or self._synced >= reached:
            return
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)  # another thread may close its own
        except FileNotFoundError:  # all has arrived meanwhile
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._synced = reached

    def drop(self) -> None:
        """Delete it, with what it holds."""
        self.waiting.clear()
        self.in_flight.clear()
        self._free()
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink()

    def _free(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _opened(self) -> int:
        """Return the file's descriptor; raises OSError."""
        if self._file is None and self.path is not None:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return -1 if self._file is None else self._file

    def _write(self, content: bytes, start: int) -> None:
        file, written = self._opened(), 0
        try:
            while written < len(content):
                written += os.pwrite(file, memoryview(content)[written:], start + written)
        except OSError:
            with suppress(OSError):
                os.ftruncate(file, start)
            raise

    def _read(self, start: int, length: int) -> bytes:
        if self._memory is not None:
            return bytes(self._memory.getbuffer()[start : start + length])
        return os.pread(self._opened(), length, start)


def segment_path(folder: Path, first: int, importance: Importance) -> Path:
    """Return where the segment is kept that begins with a message's number."""
    return folder / f"{first:020d}.{importance}{_SUFFIX}"


def first_number(path: Path) -> int:
    """Return the number of the message that a segment begins with, as its path says; 0 for another file."""
    number = path.name.partition(".")[0]
    return int(number) if number.isdecimal() else 0


def list_segments(folder: Path, importance: Importance) -> list[Path]:
    """List the segments that a folder holds, the oldest first."""
    return sorted(folder.glob(f"*.{importance}{_SUFFIX}"))
