"""A worker process, as the process that has started it sees it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache

import numpy as np
from numpy.typing import NDArray

from rattle.envs import errors
from rattle.envs.errors import EnvError
from rattle.workers.messages import ANSWER, ASK, DONE, STEP, Begin, Failure, Message, Request, read, write

#: How long a worker may take to end when nobody needs it any more, in seconds.
_END_SECONDS = 3.0


class WorkerGone(Exception):
    """A worker has ended, or does not answer any more: says how."""


@cache
def _starter() -> ThreadPoolExecutor:
    """Return the thread that starts all workers: the kernel ends them when the *thread* that has started them ends."""
    return ThreadPoolExecutor(1, "workers")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_starter.cache_clear)


class Worker:
    """A process that makes the worlds of `begin`; `receive` waits until it has."""

    def __init__(self, begin: Begin, memory: int) -> None:
        """`memory` is the descriptor of the shared memory; raises OSError where no process can be started."""
        self._socket, theirs = socket.socketpair()
        with theirs:
            descriptors = (theirs.fileno(), memory)
            self._process = _starter().submit(start_module, "rattle.workers.worker", descriptors).result()
        self._channel = self._socket.fileno()
        self._poll = select.poll()
        self._poll.register(self._channel, select.POLLIN)
        with suppress(ConnectionError):  # `receive` says how it has ended
            write(self._channel, b"", begin)

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._process.pid

    def step(self) -> None:
        """Have the worlds make a tick."""
        with suppress(ConnectionError):
            os.write(self._channel, STEP)

    def ask(self, request: Request) -> None:
        """Have something else done."""
        with suppress(ConnectionError):
            write(self._channel, ASK, request)

    def receive(self, kind: type[Message], seconds: float | None, at: NDArray[np.int64]) -> Message | None:
        """Return the result of the last request: None where it is only done.

        Raises what the worlds raised, and WorkerGone: also where `at` stays the same for so many seconds.
        """
        before: int | None = None
        while not self._poll.poll(None if seconds is None else seconds * 1000):
            if before == (before := int(at[0])):
                self._process.kill()
                raise WorkerGone(f"has not answered for {seconds:g} seconds, and was killed")
        try:
            head = os.read(self._channel, 1)
            if head == DONE:
                return None
            if head == ANSWER:
                return read(self._channel, kind)
            if head:
                failure = read(self._channel, Failure)
                raise _raised(failure) from _InWorker(failure.traceback)
        except (EOFError, ConnectionError):
            pass
        raise WorkerGone(self._how_it_ended())

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "has closed its connection"
        return how_it_ended(status)

    def kill(self) -> None:
        """End it at once."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let it end by itself; `wait` waits for that."""
        self._socket.close()

    def wait(self) -> None:
        """Wait until it has ended, and kill it where that takes too long."""
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()


def how_it_ended(status: int) -> str:
    """Say what the exit status of a process means, of a signal its negative number."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"has ended with status {status}"


def start_module(module: str, descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """Start a module as a program that is told descriptors, which it has, and this process; raises OSError."""
    command = [sys.executable, "-P", "-m", module, *map(str, (*descriptors, os.getpid()))]
    # What environments print goes where warnings go. Libraries may use one thread a worker: cores have workers each.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    return subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=2,
        pass_fds=descriptors,
        env=environment,
        start_new_session=True,  # Ctrl-C in a terminal is for the process that has started it
    )


class _InWorker(Exception):
    """Stands for what was raised in a worker: its text is the traceback there, which logs show."""

    def __str__(self) -> str:
        return f"in a worker process:\n{self.args[0]}"


def _raised(failure: Failure) -> EnvError:
    """Return the error that the worlds of a worker raised."""
    kind = getattr(errors, failure.kind, EnvError)
    error: EnvError = kind(failure.text)
    return error
