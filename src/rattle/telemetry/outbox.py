"""Messages that wait on disk for the broker: in order, bounded, and kept when the process dies."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from rattle.telemetry.messages import Importance, Message
from rattle.telemetry.segments import Segment, first_number, list_segments, segment_path

#: In this order messages are dropped where there is no more room.
_IMPORTANCES: Final[Sequence[Importance]] = ("debug", "logs", "rows")
#: The most that is kept in memory while the disk takes nothing, in bytes.
_MOST_IN_MEMORY: Final = 1 << 26
_LARGEST_SEGMENT, _SMALLEST_SEGMENT = 1 << 22, 1 << 14  # bytes
_TRY_DISK_SECONDS: Final = 1.0


class Outbox:
    """A folder of messages, which one process at a time has; any thread may use it.

    `put` adds messages, `take` hands them out in their order, and `confirm` says which have arrived. What is beyond
    `most_bytes` is dropped, the oldest of the least important first, but never rows of a run: they stay, and `is_over`
    says so. Where the disk does not take messages they stay in memory, as many as fit.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._most = most_bytes
        self._segment_bytes = min(_LARGEST_SEGMENT, max(_SMALLEST_SEGMENT, most_bytes // 16))
        self._lock = threading.Lock()
        self._streams: dict[Importance, deque[Segment]] = {name: deque() for name in _IMPORTANCES}
        self._heads: dict[Importance, Message | None] = dict.fromkeys(_IMPORTANCES)
        self._sent: dict[int, Segment] = {}
        self._ids = token_hex(8)
        self._tried_disk = 0.0
        self._changed = threading.Condition(self._lock)
        self.dropped: dict[Importance, int] = dict.fromkeys(_IMPORTANCES, 0)  # rows so far
        self.damaged_bytes = 0  # found in the files that a dead process has left
        self.disk_problem: str | None = None  # why messages are in memory only
        self.folder, self._held = self._take_folder(folder)
        self._number = self._find_left() + 1

    @property
    def waiting(self) -> int:
        """Return how many messages have not arrived yet."""
        with self._lock:
            return sum(len(segment.waiting) for segment in self._segments())

    @property
    def rows_waiting(self) -> int:
        """Return how many rows have not arrived yet."""
        with self._lock:
            return sum(segment.rows for segment in self._segments())

    @property
    def is_over(self) -> bool:
        """Whether rows of a run alone take more than the bound."""
        with self._lock:
            return self._size() > self._most

    def put(self, importance: Importance, **description: Any) -> None:
        """Add a message, whose fields are those of `Message`; never raises for what the disk does."""
        with self._lock:
            self._number += 1
            own = f"{self._ids}-{self._number}"
            made = time.time_ns() // 1000
            message = Message(number=self._number, message_id=own, importance=importance, made=made, **description)
            self._append(message)
            self._make_room()

    def take(self) -> Message | None:
        """Return the oldest message that was not handed out yet, None where there is none."""
        with self._lock:
            for importance in _IMPORTANCES:
                self._heads[importance] = self._heads[importance] or self._next(importance)
            found = [message for message in self._heads.values() if message is not None]
            if not found:
                return None
            oldest = min(found, key=lambda message: message.number)
            self._heads[oldest.importance] = None
            return oldest

    def confirm(self, numbers: Sequence[int]) -> None:
        """Take note that messages have arrived, and delete what is not needed any more."""
        with self._lock:
            for number in numbers:
                segment = self._sent.pop(number, None)
                if segment is not None:
                    segment.confirm(number)
            for stream in self._streams.values():
                while stream and stream[0].is_done:
                    stream.popleft().drop()
            self._changed.notify_all()

    def rewind(self) -> None:
        """Hand out again what was handed out and has not arrived."""
        with self._lock:
            self._heads = dict.fromkeys(_IMPORTANCES)
            self._sent.clear()
            for segment in self._segments():
                segment.rewind()

    def wait_until_empty(self, seconds: float) -> bool:
        """Wait until all has arrived, as long as something arrives within each so many seconds; say whether it has."""
        with self._lock:
            while waiting := sum(len(segment.waiting) for segment in self._segments()):
                self._changed.wait(seconds)
                if sum(len(segment.waiting) for segment in self._segments()) >= waiting:
                    return False
            return True

    def sync(self) -> bool:
        """Bring all to the disk; say whether that holds all now."""
        with self._lock:
            self._leave_memory(at_once=True)
            segments = list(self._segments())
        try:
            for segment in segments:
                segment.sync()
            if self.folder is not None:
                _sync_folder(self.folder)
        except OSError as error:
            self.disk_problem = error.strerror or str(error)
            return False
        return all(segment.path is not None or not segment.waiting for segment in segments)

    def close(self) -> None:
        """Leave what has not arrived on the disk, for the next process that takes the folder."""
        with self._lock:
            self._leave_memory(at_once=True)
            for segment in self._segments():
                segment.close()
                if segment.is_done:
                    segment.drop()
            for stream in self._streams.values():
                stream.clear()
            if self._held is not None:
                os.close(self._held)
                self._held = None

    def _segments(self) -> Iterator[Segment]:
        return chain.from_iterable(self._streams.values())

    def _size(self) -> int:
        return sum(segment.size for segment in self._segments())

    def _next(self, importance: Importance) -> Message | None:
        for segment in self._streams[importance]:
            try:
                message = segment.take()
            except OSError as error:  # such as too many open files: it is there still, and is read later
                self._refused(error)
                return None
            self.dropped[importance] += segment.damaged_rows
            segment.damaged_rows = 0
            if message is not None:
                self._sent[message.number] = segment
                return message
        return None

    def _append(self, message: Message) -> None:
        """Add a message to the newest segment, and begin another where that is full, or the disk takes no more."""
        self._leave_memory()
        stream = self._streams[message.importance]
        last = stream[-1] if stream else None
        if last is not None and last.size >= self._segment_bytes:
            last.close()
        if last is None or last.closed:
            last = self._begin(message)
        try:
            last.append(message)
        except OSError as error:
            self._refused(error)
            last.close()
            if last.is_done:  # its file is named by this message, as the one will be that memory is written to
                stream.pop().drop()
            last = Segment(None)
            stream.append(last)
            last.append(message)

    def _begin(self, message: Message) -> Segment:
        segment = Segment(None)
        if self.folder is not None and self.disk_problem is None:
            try:
                segment = Segment(segment_path(self.folder, message.number, message.importance))
            except OSError as error:
                self._refused(error)
        self._streams[message.importance].append(segment)
        return segment

    def _refused(self, error: OSError) -> None:
        self.disk_problem = error.strerror or str(error)
        self._tried_disk = time.monotonic()

    def _leave_memory(self, *, at_once: bool = False) -> None:
        """Write to the disk what it did not take before, now and then."""
        waited = time.monotonic() - self._tried_disk
        if self.folder is None or self.disk_problem is None or (waited < _TRY_DISK_SECONDS and not at_once):
            return
        try:
            for importance, stream in self._streams.items():
                for segment in stream:
                    if segment.path is None and segment.waiting:
                        segment.close()
                        segment.move_to(segment_path(self.folder, min(segment.waiting), importance))
        except OSError as error:
            self._refused(error)
        else:
            self.disk_problem = None

    def _make_room(self) -> None:
        """Drop the oldest of the least important, as long as there is too much; rows only where memory ends."""
        while self._size() > self._most and self._drop_oldest(("debug", "logs"), in_memory=False):
            pass
        while self._in_memory() > _MOST_IN_MEMORY and self._drop_oldest(_IMPORTANCES, in_memory=True):
            pass

    def _in_memory(self) -> int:
        return sum(segment.size for segment in self._segments() if segment.path is None)

    def _drop_oldest(self, importances: Sequence[Importance], *, in_memory: bool) -> bool:
        """Drop a segment that nothing is under way of; say whether there was one."""
        for importance in importances:
            for segment in self._streams[importance]:
                if not segment.in_flight and (segment.path is None or not in_memory):
                    self.dropped[importance] += segment.rows
                    self._streams[importance].remove(segment)
                    segment.drop()
                    return True
        return False

    def _take_folder(self, folder: Path) -> tuple[Path | None, int | None]:
        """Make and lock the folder, or one of the same name with a number; None where the disk takes none.

        Of those that nobody has, one in which a dead process has left something comes first.
        """
        folders = (folder if number == 1 else folder.with_name(f"{folder.name}.{number}") for number in count(1))
        chosen: tuple[Path | None, int | None] = None, None
        for one in folders:
            if chosen[0] is not None and not one.exists():
                break
            try:
                held = _lock(one)
            except OSError as error:
                self.disk_problem = error.strerror or str(error)
                break
            if held is None:
                continue
            if chosen[0] is None or (_holds_messages(one) and not _holds_messages(chosen[0])):
                chosen, held = (one, held), chosen[1]
            if held is not None:
                os.close(held)
        return chosen

    def _find_left(self) -> int:
        """Take over what a dead process has left, and return the highest number in it."""
        highest = 0
        for importance, stream in self._streams.items():
            for path in [] if self.folder is None else list_segments(self.folder, importance):
                highest = max(highest, first_number(path))  # also of one that cannot be read: none is written over it
                with suppress(OSError):  # unreadable: it stays for who may read it
                    segment = Segment(path)
                    self.damaged_bytes += segment.find_messages()
                    segment.drop() if segment.is_done else stream.append(segment)
        for segment in self._segments():
            highest = max(highest, *segment.waiting, 0)
        return highest


def _lock(folder: Path) -> int | None:
    """Make a folder and return a descriptor that locks it, None where a living process has it; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _holds_messages(folder: Path) -> bool:
    return any(list_segments(folder, importance) for importance in _IMPORTANCES)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
