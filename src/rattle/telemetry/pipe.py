"""The pipe that the logs of a process go through: a bounded queue, and a thread that writes to all sinks.

The caller never waits: what happens in its thread is a copy of the fields. Everything else, such as tracebacks,
JSON and disks, is the writer's.
"""

from __future__ import annotations

import atexit
import logging
import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, Protocol

from rattle.events import NUMBERS, About, Event, LogEntry, bound_fields, context, of_services, taps
from rattle.redaction import redact
from rattle.telemetry.values import MOST_TEXT, error_fields, fitting, plain, without_secrets
from rattle.text import one_line

#: Events that wait to be written; more are dropped, debug messages first, and counted.
MOST_WAITING: Final = 20_000
_MANY: Final = MOST_WAITING // 4  # of one level: fewer of each are never too many
#: The writer lets events come together for so long, in seconds: one at a time costs everybody a change of threads.
_GATHER_SECONDS: Final = 0.02
#: A sink that takes nothing is left alone for so long, in seconds.
_REST_SECONDS: Final = 1.0
#: How long a process that ends waits for its last events to be written, in seconds.
EXIT_SECONDS: Final = 2.0

_LEVELS: Final = ((logging.ERROR, "ERROR"), (logging.WARNING, "WARNING"), (logging.INFO, "INFO"), (0, "DEBUG"))
#: The attributes that every record of `logging` has; others are fields that were given as `extra`.
_OF_ALL: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_BARE: Final = len(vars(logging.makeLogRecord({})))


class EntrySink(Protocol):
    """Where events go."""

    #: What the place is called in an event that says that it takes nothing.
    place: str
    #: Whether a process that was forked continues writing there.
    is_shared: bool

    def write(self, entries: Sequence[tuple[LogEntry, bool]]) -> None:
        """Write events; True with one says that somebody shows it already. Whatever it raises is made an event."""

    def settle(self) -> None:
        """Bring what was written where the end of this process does not reach it."""

    def close(self) -> None:
        """Write what is left, and write no more."""


class _Taken(NamedTuple):
    """What is kept of a record until the writer has it."""

    number: int
    created: float
    level: int
    event: str
    message: Event | None  # None: the fields say it
    fields: dict[str, Any]
    error: BaseException | None
    about: About | None


class _Sink:
    """A sink, and what has happened to it."""

    def __init__(self, sink: EntrySink) -> None:
        self.sink = sink
        self.missing = 0
        self._rests_until = 0.0

    def write(self, entries: Sequence[tuple[LogEntry, bool]]) -> Event | None:
        """Write events, and return what there is to say of the sink."""
        if self.missing and time.monotonic() < self._rests_until:
            self.missing += len(entries)
            return None
        try:
            self.sink.write(entries)
        except Exception as error:
            is_news = not self.missing
            self.missing += len(entries)
            self._rests_until = time.monotonic() + _REST_SECONDS
            said = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error, 300)
            return of_services.LogNotWritten(place=self.sink.place, error=said) if is_news else None
        missing, self.missing = self.missing, 0
        return of_services.LogWrittenAgain(place=self.sink.place, missing=missing) if missing else None


class EventPipe:
    """Takes records of `logging`, and hands them to sinks in the order in which they came."""

    def __init__(self) -> None:
        self.level = logging.INFO
        self._sinks: list[_Sink] = []
        self._begin()
        os.register_at_fork(after_in_child=self._after_fork)
        atexit.register(self._end)

    def _begin(self) -> None:
        self._host = platform.node()
        self._numbers = count()
        self._waiting: dict[int, deque[_Taken]] = {level: deque() for level, _ in reversed(_LEVELS)}
        self._wake: SimpleQueue[threading.Event | None] = SimpleQueue()  # may be used within signal handlers
        self._is_awake = False
        self._dropped = 0
        self._writing = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._has_ended = False

    def _after_fork(self) -> None:
        """Begin again in a forked process: what waits is the parent's, and so are its files."""
        self._sinks = [one for one in self._sinks if one.sink.is_shared]
        self._begin()

    def add(self, sink: EntrySink) -> None:
        """Write events to a sink from now on."""
        self._sinks = [*self._sinks, _Sink(sink)]
        if self.take not in taps:
            taps.append(self.take)

    def remove(self, sink: EntrySink) -> None:
        """Write what has come so far, and close the sink."""
        self.flush(EXIT_SECONDS)
        self._sinks = [one for one in self._sinks if one.sink is not sink]
        if not self._sinks and self.take in taps:
            taps.remove(self.take)
        with self._writing:
            sink.close()

    def take(self, number: int, event: Event, error: BaseException | None, about: About | None) -> None:
        """Take an event; never waits, never raises."""
        if number >= self.level:
            self._put(time.time(), number, event.name, event, event.fields(), error, about)

    def take_record(self, record: logging.LogRecord) -> None:
        """Take a record of `logging` that is no event of the list; never waits, never raises."""
        if record.levelno >= self.level and not isinstance(record.msg, Event):
            name, message, fields = _foreign(record)
            error = record.exc_info[1] if record.exc_info else None
            self._put(record.created, record.levelno, name, message, fields, error, None)

    def _put(
        self,
        created: float,
        level: int,
        event: str,
        message: Event | None,
        fields: dict[str, Any],
        error: BaseException | None,
        about: About | None,
    ) -> None:
        if bound := bound_fields():
            fields = {**bound, **fields}
        for key, value in fields.items():
            if (kind := type(value)) is not int and (kind is not str or len(value) > MOST_TEXT):
                fields[key] = plain(value)
        if (span := _span()) is not None:
            fields.update(span)
        waiting = self._waiting[_kind(level)]
        waiting.append(_Taken(next(self._numbers), created, level, event, message, fields, error, about))
        if len(waiting) > _MANY:
            self._bound()
        self._wake_up()

    def flush(self, seconds: float) -> bool:
        """Wait for what has come so far to be written, for some seconds at most; say whether it was."""
        thread = self._thread
        if thread is None and not any(self._waiting.values()):
            return True
        if thread is threading.current_thread():
            return False
        done = threading.Event()
        self._wake_up(done)
        return done.wait(seconds if self._thread is not None else 0.0)

    def settle(self, seconds: float) -> None:
        """Have what has come so far written, and survive the end of this process."""
        if self.flush(seconds):
            for one in self._sinks:
                with suppress(Exception):  # the process ends, whatever a sink says
                    one.sink.settle()

    def _end(self) -> None:
        """Write what waits before the interpreter ends, and what comes after that at once."""
        self.flush(EXIT_SECONDS)
        self._has_ended = True

    def _bound(self) -> None:
        """Drop an event of the least important kind where too many wait."""
        if sum(map(len, self._waiting.values())) <= MOST_WAITING:
            return
        for waiting in self._waiting.values():  # the least important first
            try:
                waiting.popleft()
            except IndexError:
                continue
            self._dropped += 1
            return

    def _wake_up(self, done: threading.Event | None = None) -> None:
        if self._has_ended:
            self._drain()
            return
        if done is not None or not self._is_awake:
            self._is_awake = True
            self._wake.put(done)
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        if not self._starting.acquire(blocking=False):  # another thread does, or what this signal handler interrupts
            return
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="events", daemon=True)
                thread.start()
                self._thread = thread
        except RuntimeError:  # the interpreter ends
            self._has_ended = True
            self._drain()
        finally:
            self._starting.release()

    def _run(self) -> None:
        while True:
            asked = [self._wake.get()]
            if asked == [None]:
                time.sleep(_GATHER_SECONDS)
            self._is_awake = False  # anyone who comes from now on wakes this thread again
            try:
                while True:
                    asked.append(self._wake.get_nowait())
            except Empty:
                pass
            self._drain()
            for done in asked:
                if done is not None:
                    done.set()

    def _drain(self) -> None:
        """Write all that waits, unless that is done already."""
        if not self._writing.acquire(timeout=EXIT_SECONDS):
            return
        try:
            taken = sorted(self._all_waiting())
            entries = [(self._entry(one), bool(one.about and one.about.quiet)) for one in taken]
            if dropped := self._dropped:
                self._dropped -= dropped
                entries.append((self._own(of_services.EventsDropped(count=dropped)), False))
            news = self._write(entries) if entries else []
            if news:  # of a sink, to all others
                self._write([(self._own(event), False) for event in news])
        finally:
            self._writing.release()

    def _all_waiting(self) -> Iterator[_Taken]:
        for waiting in self._waiting.values():
            for _ in range(len(waiting)):
                try:
                    yield waiting.popleft()
                except IndexError:  # it was dropped meanwhile
                    break

    def _write(self, entries: Sequence[tuple[LogEntry, bool]]) -> list[Event]:
        return [event for one in self._sinks if (event := one.write(entries)) is not None]

    def _entry(self, taken: _Taken) -> LogEntry:
        """Return what is written of an event."""
        about, fields = taken.about, taken.fields
        try:
            if taken.error is not None:
                fields = {**fields, **error_fields(taken.error)}
            fields = fitting(without_secrets(fields))
            message = redact(_shown(fields) if taken.message is None else str(taken.message))
        except Exception as error:  # of what cannot be shown
            fields, message = {}, f"{taken.event}: it cannot be shown: {type(error).__name__}"
        return LogEntry(
            time=datetime.fromtimestamp(taken.created, UTC).isoformat(timespec="microseconds"),
            level=_level_name(taken.level),
            service=context.service,
            event=taken.event,
            message=message,
            experiment=(about and about.experiment) or context.experiment,
            run_id=(about and about.run_id) or context.run_id,
            host=self._host,
            pid=os.getpid(),
            fields=fields,
        )

    def _own(self, event: Event) -> LogEntry:
        return self._entry(_Taken(0, time.time(), NUMBERS[event.level], event.name, event, event.fields(), None, None))


def _foreign(record: logging.LogRecord) -> tuple[str, Event | None, dict[str, Any]]:
    """Return the event, the message and the fields of a record that is no event of the list."""
    has = vars(record)
    extra = {key: has[key] for key in has.keys() - _OF_ALL} if len(has) > _BARE else {}
    if isinstance(record.msg, dict) and not record.args:
        fields = {str(key): value for key, value in record.msg.items()}
        name = fields.pop("event") if isinstance(fields.get("event"), str) else of_services.Log.name
        return name, None, fields | extra
    try:
        message = record.getMessage()
    except Exception:  # arguments that do not fit
        message = f"{record.msg} {record.args}"
    said = of_services.Log(logger=record.name, message=plain(message))
    name = extra.pop("event", None)
    own = {"logger": said.logger, "message": said.message}
    return name if isinstance(name, str) else said.name, said, own | extra if extra else own


def _shown(fields: dict[str, Any]) -> str:
    return one_line(" ".join(f"{key}={value}" for key, value in fields.items()), 2000)


def _span() -> dict[str, str] | None:
    """Return the ids of the present trace and span, where the process uses OpenTelemetry."""
    tracing = sys.modules.get("opentelemetry.trace")
    if tracing is None:
        return None
    span = tracing.get_current_span().get_span_context()
    return {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"} if span.is_valid else None


def _kind(level: int) -> int:
    return next(number for number, _ in _LEVELS if level >= number)


def _level_name(level: int) -> str:
    return next(name for number, name in _LEVELS if level >= number)


#: The pipe of this process.
pipe = EventPipe()
