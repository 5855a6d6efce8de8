"""Work with an environment of others in a process of its own: one that ends its process, or hangs, takes nobody along.

A fork of this process does it, which has everything imported, and where that is not safe, or came to nothing, a process
that is started as workers are. Both say in MessagePack the result; nothing is pickled.
"""

from __future__ import annotations

import faulthandler
import os
import re
import select
import signal
import socket
import sys
import sysconfig
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Protocol, get_args

import msgspec
from setproctitle import setproctitle

from rattle.envs.errors import EnvError, EnvironmentFailed
from rattle.envs.foreign import Asked, listen
from rattle.events import emit, of_runs
from rattle.extensions import FOREIGN_ERRORS
from rattle.telemetry.pipe import EXIT_SECONDS, pipe
from rattle.wire import encoding
from rattle.workers.memory import map_arrays, open_memory
from rattle.workers.messages import Message, Place, read, write
from rattle.workers.process import how_it_ended, start_module
from rattle.workers.worker import die_with

#: How many times longer than a worker a process may take that is started anew: what is done for the first time may
#: compile, or fetch something.
_TIMES = 4
#: What takes longer is told, in seconds.
_SAID_AFTER = 5.0
#: How long a process may take to say where it hangs, in seconds.
_TRACE_SECONDS = 1.0
#: What ends a process whose code is wrong.
_FATAL = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
#: Modules that start threads of their own, which forks do not have.
_THREADED = ("jax", "tensorflow", "ray")

#: Shared with the process: how often it has asked for something, and what for last; then what faulthandler writes.
_DOING = {"doing": Place("<i8", (2,), 0)}
_TRACE_AT, _BYTES = 64, 2**16
_ASKED = get_args(Asked)


class _Work(msgspec.Struct):
    """What a process does."""

    module: str
    request: bytes
    environment: str
    path: list[str]  # where modules are found


class _Reply(msgspec.Struct):
    """What came of it."""

    answer: bytes | None  # None: it raised something
    warned: list[str]  # what Python's warnings said meanwhile


class _Child(Protocol):
    """What is needed of a process: `subprocess.Popen` has it."""

    pid: int

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when it has ended; of a signal, its negative number."""

    def kill(self) -> None:
        """End it at once, if it has not ended."""


class _NothingCame(Exception):
    """A process has ended, or was ended, without an answer: says how."""


def ask_apart(
    module: str, request: msgspec.Struct, answer: type[Message], *, environment: str, answer_seconds: float
) -> Message | None:
    """Have the function `answer` of a module do what a request says, in another process, and return what it returns.

    None where it raised something, or the request cannot be told: the caller may then do it in this process.

    Raises EnvironmentFailed where the environment ended that process, or did not come back from what it was asked for:
    in a fork for `answer_seconds`, and, since forks lack threads and devices, in a new process for four times
    as long. Raises EnvError where no process can be started.
    """
    try:
        work = _Work(module, encoding.msgpack.encode(request), environment, sys.path)
    except (TypeError, NotImplementedError):
        return None
    if _can_fork():
        with suppress(_NothingCame, OSError):
            return _outcome(_fork, work, answer, answer_seconds, says=False)
    try:
        return _outcome(_start_anew, work, answer, _TIMES * answer_seconds, says=True)
    except _NothingCame as error:
        raise EnvironmentFailed(str(error)) from None
    except OSError as error:
        raise EnvError(f"'{environment}': no process can be started to try it out: {error.strerror}") from None


def _outcome(
    start: Callable[[int, int], _Child], work: _Work, answer: type[Message], patience: float, *, says: bool
) -> Message | None:
    memory = open_memory(_BYTES)
    ours, theirs = socket.socketpair()
    try:
        with ours:
            with theirs:
                process = start(theirs.fileno(), memory)
            try:
                with suppress(ConnectionError):  # `_Watch` says how it has ended
                    write(ours.fileno(), b"", work)
                reply = _Watch(work.environment, process, ours.fileno(), memory).reply(patience, says=says)
            except BaseException:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)  # with what the environment has started
                process.kill()
                raise
            finally:
                process.wait()
    finally:
        os.close(memory)
    for text in reply.warned:  # which this process would say once more when it does the same
        warnings.filterwarnings("ignore", re.escape(text) + r"\Z")
    return None if reply.answer is None else encoding.msgpack.decode(reply.answer, answer)


class _Watch:
    """A process that does something with an environment, as it is waited for."""

    def __init__(self, environment: str, process: _Child, channel: int, memory: int) -> None:
        self._environment, self._process, self._channel, self._memory = environment, process, channel, memory
        self._doing = map_arrays(memory, _BYTES, _DOING)["doing"]

    def reply(self, patience: float, *, says: bool) -> _Reply:
        """Wait for the answer; `says` when that takes long. Raises _NothingCame."""
        silent, seen, slices = 0.0, -1, min(patience / 4, _SAID_AFTER)
        with _Readable(self._channel, self._process.pid) as readable:
            while not (ready := readable.wait(slices)):
                if seen != (seen := int(self._doing[0])):
                    silent = 0.0
                    continue
                silent += slices
                if silent >= patience:
                    raise _NothingCame(self._hung(patience))
                if says:
                    says = False
                    emit(of_runs.EnvironmentSlow(environment=self._environment, asked=self._asked, seconds=patience))
        if self._channel in ready:
            with suppress(EOFError, ConnectionError):
                return read(self._channel, _Reply)
        raise _NothingCame(self._ended(self._process.wait()))

    @property
    def _asked(self) -> Asked:
        asked: Asked = _ASKED[int(self._doing[1])]
        return asked

    def _ended(self, status: int) -> str:
        advice = "have it raise an error where something is wrong, and not end its process"
        if status == -signal.SIGKILL:
            advice = "nothing but the system does so, where memory runs out"
        elif status < 0:
            advice = "fix it, or what it calls there"
        return f"{self._whose()} {how_it_ended(status)}{self._place()}: {advice}"

    def _hung(self, patience: float) -> str:
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGUSR1)
        until = time.monotonic() + _TRACE_SECONDS
        while not (place := self._place()) and time.monotonic() < until:
            time.sleep(0.01)
        advice = f"fix it, or raise env.answer_seconds (the limit is {_TIMES} times that)"
        return f"{self._whose()} has not come back for {patience:g} seconds{place}: {advice}"

    def _whose(self) -> str:
        """Name the environment, and what it was asked for last."""
        return f"'{self._environment}', {self._asked}: the process that tries it out"

    def _place(self) -> str:
        """Return the innermost line of Python, outside of its own library, where that is known."""
        trace = os.pread(self._memory, _BYTES, _TRACE_AT).decode(errors="replace")
        trace = trace[: trace.rfind("\n") + 1]  # whole lines
        library = sysconfig.get_path("stdlib")
        for file, line, function in re.findall(r'^  File "(.+)", line (\d+) in (.+)$', trace, re.MULTILINE):
            if Path(file).parent.is_relative_to(library) and "site-packages" not in file:
                continue
            return f" in {function}, {Path(file).name}, line {line}"
        return ""


class _Readable:
    """Waits until a socket can be read or a process has ended: others may hold its end of the socket open."""

    def __init__(self, channel: int, pid: int) -> None:
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._process = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1

    def __enter__(self) -> _Readable:
        if self._process >= 0:
            self._poll.register(self._process, select.POLLIN)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process >= 0:
            os.close(self._process)

    def wait(self, seconds: float) -> list[int]:
        """Return which of both is the case after so many seconds at most."""
        return [descriptor for descriptor, _ in self._poll.poll(seconds * 1000)]


def _start_anew(channel: int, memory: int) -> _Child:
    return start_module("rattle.workers.apart", (channel, memory))


def _can_fork() -> bool:
    """Whether a fork of this process can do what this process can: it has this thread only."""
    others = (one for one in threading.enumerate() if one is not threading.current_thread())
    is_alone = all(one.name == "events" for one in others)  # the pipe of events begins anew in a fork
    return sys.platform == "linux" and is_alone and not any(name in sys.modules for name in _THREADED)


class _Forked:
    """A fork of this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when it has ended; of a signal, its negative number."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def kill(self) -> None:
        """End it at once, if nobody has waited for its end."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)


def _fork(channel: int, memory: int) -> _Child:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # a fork would write what waits once more
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # libraries have threads, which sleep
        pid = os.fork()
    if pid:
        return _Forked(pid)
    try:
        os.setsid()  # Ctrl-C in a terminal is for the process that waits
        os.dup2(2, 1)  # as with workers, what environments print goes where warnings go
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(1)  # its threads are not there
        _serve(channel, memory, parent)
    finally:
        os._exit(1)


def _do(work: _Work, channel: int, memory: int) -> None:
    """Do some work, in the process that is there for it, and say what came of it."""
    setproctitle(f"rattle (tries {work.environment} out)")
    doing = map_arrays(memory, _BYTES, _DOING)["doing"]
    os.lseek(memory, _TRACE_AT, os.SEEK_SET)
    faulthandler.disable()
    for number in _FATAL:  # a library's handler, such as chDB's, would wait for a thread that is not in a fork
        signal.signal(number, signal.SIG_DFL)
    faulthandler.enable(memory, all_threads=False)
    faulthandler.register(signal.SIGUSR1, memory, all_threads=False)

    def note(asked: Asked) -> None:
        doing[1] = _ASKED.index(asked)
        doing[0] += 1

    listen(note)
    warned: list[str] = []
    show = warnings.showwarning

    def show_and_keep(message: Warning | str, *how: Any, **more: Any) -> None:
        warned.append(str(message))
        show(message, *how, **more)

    warnings.showwarning = show_and_keep
    try:
        answer = encoding.msgpack.encode(import_module(work.module).answer(work.request))
    except FOREIGN_ERRORS:
        answer = None
    pipe.flush(EXIT_SECONDS)  # which shows warnings, and what is logged
    with suppress(OSError, ValueError):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    with suppress(ConnectionError):  # nobody waits for it any more
        write(channel, b"", _Reply(answer, warned))


def _serve(channel: int, memory: int, parent: int) -> NoReturn:
    """Do what is read from the socket, and end this process, whatever threads an environment has left."""
    die_with(parent)
    with suppress(EOFError, ConnectionError):
        work = read(channel, _Work)
        sys.path[:] = work.path
        _do(work, channel, memory)
    os._exit(0)


if __name__ == "__main__":
    _serve(*(int(given) for given in sys.argv[1:]))
