"""Sets up the logs of a process: events and messages of `logging`, to the console, a file and a run's table."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Literal, TextIO, cast, get_args

from rattle.errors import RattleError
from rattle.events import NUMBERS, Level, LogEntry, context, deaf_handlers, emit, of_services
from rattle.telemetry.log_file import LogFile
from rattle.telemetry.pipe import EXIT_SECONDS, EntrySink, pipe
from rattle.text import one_line

#: How events are written to standard error. `auto`: as text in a terminal, else as JSON; `brief`: "Warning: …".
Console = Literal["auto", "text", "json", "brief", "none"]

#: LOG_FILE is put aside when it is as large as this, in bytes, and so many of those are kept.
FILE_BYTES: Final = 2**26
FILES_KEPT: Final = 5
#: How long a reader of standard error may read nothing until events are dropped, in seconds.
_PATIENCE_SECONDS: Final = 1.0
_PIPE_BYTES: Final = 4096  # that a pipe takes at once where it takes any
#: Libraries that say far too much at level DEBUG.
_TALKATIVE: Final = ("numba", "matplotlib", "asyncio", "PIL")


class ConsoleSink:
    """Writes events to standard error, wherever that is now, and never waits long for a reader."""

    place = "standard error"
    is_shared = True

    def __init__(self, how: Console, level: Level) -> None:
        self.level = level
        self._how = how
        self._rest = b""  # of a line whose beginning was written

    def write(self, entries: Sequence[tuple[LogEntry, bool]]) -> None:
        """Write the events that are not shown already; raises OSError where nobody reads them."""
        least = NUMBERS[self.level]
        lines = [self._line(entry) for entry, is_shown in entries if not is_shown and _number(entry) >= least]
        stream: Any = sys.stderr  # None where it is closed
        if not lines or stream is None:
            return
        stream.flush()
        if type(stream) is not TextIOWrapper:  # a live display, a notebook or a test is in for it
            stream.write(b"".join(lines).decode())
            stream.flush()
            return
        try:
            for line in lines:
                self._rest += line
                self._write_rest(stream.fileno())
        except OSError:
            if self._rest.count(b"\n") > 1:  # what has not been begun is dropped
                self._rest = self._rest[: self._rest.index(b"\n") + 1]
            raise

    def settle(self) -> None:
        """Do nothing: the system has all lines."""

    def close(self) -> None:
        """Do nothing: standard error stays open."""

    def _line(self, entry: LogEntry) -> bytes:
        if self._how == "json":
            return entry.line()
        trace = str(entry.fields.get("traceback", ""))
        text = as_text(entry) if self._how == "text" else f"{entry.level.capitalize()}: {entry.message}"
        return f"{text}\n{trace}".encode(errors="backslashreplace")

    def _write_rest(self, number: int) -> None:
        asking = select.poll()
        asking.register(number, select.POLLOUT)
        while self._rest:
            if not asking.poll(_PATIENCE_SECONDS * 1000):
                raise TimeoutError("nobody reads it")
            self._rest = self._rest[os.write(number, self._rest[:_PIPE_BYTES]) :]


class FileSink:
    """Writes events as JSON lines to a file, which is put aside when it is full."""

    is_shared = True

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        self._file = LogFile(path, FILE_BYTES, FILES_KEPT)

    def write(self, entries: Sequence[tuple[LogEntry, bool]]) -> None:
        """Write events; raises OSError."""
        self._file.write(b"".join(entry.line() for entry, _ in entries))

    def settle(self) -> None:
        """Do nothing: the system has all lines."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _PipeHandler(logging.Handler):
    """Hands records of `logging` to the pipe, which has no need of a lock."""

    def handle(self, record: logging.LogRecord) -> bool:
        pipe.take_record(record)
        return True


def as_text(entry: LogEntry) -> str:
    """Return an event as a line for people, with the time of this place."""
    when = datetime.fromisoformat(entry.time).astimezone()
    return f"{when:%Y-%m-%d %H:%M:%S} {entry.level:7} {entry.service}: {entry.message}"


def _number(entry: LogEntry) -> int:
    return NUMBERS[cast(Level, entry.level)]


#: What `setup` has made in this process, as long as it is not closed.
_made: list[Logs] = []


class Logs:
    """The logs of this process; `close` undoes all of `setup`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._shown: ConsoleSink | None = None
        self._undo = ExitStack()

    def add(self, sink: EntrySink) -> None:
        """Write events to a sink from now on."""
        pipe.add(sink)
        self.on_close(pipe.remove, sink)
        if isinstance(sink, ConsoleSink):
            self._shown = sink

    def show(self, level: Level) -> None:
        """Show events from a level on, on the console."""
        if self._shown is not None:
            self._shown.level = level

    def on_close(self, undo: Callable[..., object], *arguments: Any) -> None:
        """Have something undone by `close`, the last first."""
        self._undo.callback(undo, *arguments)

    def flush(self, seconds: float = EXIT_SECONDS) -> bool:
        """Wait until all is written that was logged so far, for some seconds at most; say whether it is."""
        return pipe.flush(seconds)

    def settle(self, seconds: float = EXIT_SECONDS) -> None:
        """Have all that was logged so far written, so that it survives the end of this process at any moment."""
        pipe.settle(seconds)

    def close(self) -> None:
        """Write what is left, and leave `logging`, warnings and signals as they were."""
        self._undo.close()


def setup(
    service: str,
    *,
    experiment: str | None = None,
    run_id: str | None = None,
    level: str | None = None,
    console: Console | None = None,
    file: Path | str | None = None,
    run_dir: Path | str | None = None,
    broker: str | None = None,
    publish: bool = True,
    environ: Mapping[str, str] | None = None,
) -> Logs:
    """Have events, messages of `logging` and Python's warnings of this process written, and never wait for that.

    What is not given is taken from the environment: SERVICE_NAME, EXPERIMENT_NAME, RUN_ID, LOG_LEVEL, LOG_FORMAT (of
    the console), LOG_FILE, RUN_DIR, whose table `logs` is written to, and ENABLE_RABBITMQ and RABBITMQ_… for the
    broker, unless `publish` is false; `broker` is its URL. Without a level, everything from INFO on is written, and to
    the console from WARNING on. What is wrong with these becomes an event; nothing is raised. What was set up before in
    this process, or in the one that it was forked from, is undone.
    """
    known = os.environ if environ is None else environ
    if _made:
        _made[0].close()
    problems: list[tuple[str, str]] = []
    least = _choice("LOG_LEVEL", (level or known.get("LOG_LEVEL", "")).upper(), tuple(NUMBERS), problems)
    asked = _choice("LOG_FORMAT", (known.get("LOG_FORMAT", "")).lower(), get_args(Console), problems)
    console = cast(Console, _choice("console", console or "auto", get_args(Console), problems) or "auto")
    how = cast(Console, asked or console)
    if how == "auto":
        how = "text" if sys.stderr is not None and sys.stderr.isatty() else "json"
    logs = Logs(cast(Console, asked or console))
    _made.append(logs)
    logs.on_close(_made.remove, logs)
    _set_context(
        logs,
        known.get("SERVICE_NAME") or service,
        experiment or known.get("EXPERIMENT_NAME", ""),
        run_id or known.get("RUN_ID", ""),
    )
    _listen(logs, NUMBERS[cast(Level, least or "INFO")], shows=how != "none")  # undone last: sinks tell of their end
    if how != "none":
        logs.add(ConsoleSink(how, cast(Level, least or "WARNING")))
    if path := file or known.get("LOG_FILE"):
        logs.add(FileSink(Path(path)))
    run_dir = run_dir or known.get("RUN_DIR")
    if run_dir:
        _open_table(logs, Path(run_dir), problems)
    if publish:
        _publish(logs, broker, run_dir, known, problems)
    _tell(problems)
    return logs


def publish_by_environment(logs: Logs) -> None:
    """Publish to the broker that the environment names, if it names one: for who must not have threads in `setup`."""
    problems: list[tuple[str, str]] = []
    _publish(logs, None, os.environ.get("RUN_DIR"), os.environ, problems)
    _tell(problems)


def _tell(problems: Sequence[tuple[str, str]]) -> None:
    for place, problem in problems:
        emit(of_services.LogNotWritten(place=place, error=problem))


def _choice(name: str, value: str, allowed: Sequence[str], problems: list[tuple[str, str]]) -> str:
    """Return a value that is allowed; else none, and note the problem."""
    if not value or value in allowed:
        return value
    problems.append((name, f"it is {one_line(value, 40)!r}, and may be {', '.join(allowed)}"))
    return ""


def _set_context(logs: Logs, service: str, experiment: str, run_id: str) -> None:
    logs.on_close(_restore_context, context.service, context.experiment, context.run_id)
    _restore_context(service, experiment, run_id)


def _restore_context(service: str, experiment: str, run_id: str) -> None:
    context.service, context.experiment, context.run_id = service, experiment, run_id


def _open_table(logs: Logs, folder: Path, problems: list[tuple[str, str]]) -> None:
    from rattle.analytics.run_directory import RunDirectory  # which takes a while
    from rattle.telemetry.run_log import open_run_log

    try:
        if not context.run_id:
            problems.append((str(folder), "RUN_DIR needs RUN_ID, the run that the events are of"))
            return
        logs.on_close(open_run_log(RunDirectory(folder), context.service, context.run_id, context.experiment))
    except (RattleError, OSError) as error:
        problems.append((str(folder), one_line(error)))


def _publish(
    logs: Logs,
    url: str | None,
    run_dir: str | Path | None,
    environ: Mapping[str, str],
    problems: list[tuple[str, str]],
) -> None:
    """Publish to the broker of a URL, else to the one of the environment, if there is one."""
    if url is None and not environ.get("ENABLE_RABBITMQ"):  # what follows takes a while to import
        return
    from rattle.telemetry.broker import find_broker
    from rattle.telemetry.log_publishing import publish_logs

    try:
        broker = find_broker(url, environ)
        if broker is not None:
            broker.parameters("")  # which says what is missing here
            logs.on_close(publish_logs(broker, Path(run_dir) / "outbox" if run_dir else None))
    except (RattleError, OSError) as error:
        problems.append(("RabbitMQ", one_line(error)))


def _listen(logs: Logs, level: int, *, shows: bool) -> None:
    """Have the pipe take what `logging`, `warnings` and Python say, and write it before a signal ends the process."""
    handler, root = _PipeHandler(), logging.getLogger()
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        logs.on_close(logger.setLevel, logger.level)
        logger.setLevel(max(level, logging.INFO))
    logs.on_close(root.setLevel, root.level)
    logs.on_close(setattr, pipe, "level", pipe.level)
    logs.on_close(deaf_handlers.remove, handler)
    logs.on_close(root.removeHandler, handler)
    logs.on_close(setattr, warnings, "showwarning", warnings.showwarning)
    logs.on_close(setattr, sys, "excepthook", sys.excepthook)
    logs.on_close(setattr, threading, "excepthook", threading.excepthook)
    pipe.level = level
    root.setLevel(level)
    deaf_handlers.append(handler)
    root.addHandler(handler)
    warnings.showwarning = _show_warning
    sys.excepthook = _told(sys.excepthook, shows=shows)
    threading.excepthook = _tell_of_thread
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _end)
                logs.on_close(_leave, number)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    said = of_services.PythonWarning(message=str(message), category=category.__name__, file=filename, line=lineno)
    emit(said)


def _told(before: Callable[..., object], *, shows: bool) -> Callable[..., object]:
    """Return an `excepthook` that makes an event of an error that ends the process."""

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, Exception):
            emit(of_services.Crashed(where="the main thread", error=one_line(f"{kind.__name__}: {error}")), error=error)
            pipe.flush(EXIT_SECONDS)
        if not shows or not issubclass(kind, Exception):
            before(kind, error, trace)

    return tell


def _tell_of_thread(about: threading.ExceptHookArgs) -> None:
    if about.exc_value is not None and not issubclass(about.exc_type, SystemExit):
        where = "a thread" if about.thread is None else f"the thread {about.thread.name}"
        said = one_line(f"{about.exc_type.__name__}: {about.exc_value}")
        emit(of_services.Crashed(where=where, error=said), error=about.exc_value)


def _end(number: int, _frame: FrameType | None) -> None:
    """Write what was logged, and end as the signal has it."""
    pipe.settle(EXIT_SECONDS)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


_end.ends_process = True  # type: ignore[attr-defined]  # see rattle.live


def _leave(number: int) -> None:
    if signal.getsignal(number) == _end and threading.current_thread() is threading.main_thread():
        signal.signal(number, signal.SIG_DFL)
