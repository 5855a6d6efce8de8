"""The processes of services: what a supervisor decides, done; what happens to them, told to it."""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rattle.addresses import credentials_for_children
from rattle.errors import RattleError
from rattle.events import Event
from rattle.launch.notes import Messages, Note
from rattle.launch.piped import Parcel, Piped, start_piped
from rattle.launch.supervisor import Action, Send, Start, Supervisor
from rattle.launch.template import Started, current
from rattle.settings.sources import ENVIRONMENT_PREFIX
from rattle.telemetry.log_file import LogFile
from rattle.text import one_line

#: The `rattle` command, in a process that ends with this one. With -P the working directory is not put before the
#: standard library, as it is not for the installed command: a file queue.py in it must not break a service, or run.
LEASH = "--leash"
RATTLE = (sys.executable, "-P", "-m", "rattle.cli", LEASH)
_LONGEST_LINE = 2**16
#: Control characters, which would forge lines or steer the terminal of anyone who reads a log.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: How long the output of a process that has ended is read on, where another has the pipe too, in seconds.
_LAST_WORDS_SECONDS = 1.0
#: The log of a service is put aside when it is as large as this, in bytes; one of those is kept.
_LOG_BYTES, _LOGS_KEPT = 2**23, 1


class Processes:
    """Runs a supervisor's services, each in a process group of its own, which no Ctrl-C in a terminal reaches."""

    def __init__(
        self,
        supervisor: Supervisor,
        command: Callable[[str], Sequence[str]],
        logs: Path,
        show: Callable[[Note], None],
        program: Sequence[str] = RATTLE,
        variables: Mapping[str, str] | None = None,
        parcel: Parcel | None = None,
    ) -> None:
        """`variables` are added to the environment of services, with the name of each as SERVICE_NAME.

        `parcel` is what travels to those that are started through a command.
        """
        self._parcel = parcel
        self._supervisor = supervisor
        self._command = command  # from a service's name to its arguments at this moment
        self._logs = logs
        self._show = show
        self._program = program
        self._running: dict[str, Started] = {}
        self._unsent: defaultdict[str, list[signal.Signals]] = defaultdict(list)  # to processes that are being made
        self._changed = asyncio.Event()
        self._forking = asyncio.Lock()
        # The settings of the experiment hold what the environment variables said already.
        self._environment = {name: v for name, v in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
        self._environment |= credentials_for_children() | dict(variables or {})

    async def run(self) -> None:
        """Run the services until they are stopped or given up; none is left when this returns or raises."""
        read_end, write_end = os.pipe()  # closed by the system when this process ends: the leash of all others
        try:
            self._leash = read_end
            async with asyncio.TaskGroup() as self._lives:
                self.do(self._supervisor.begin(time.monotonic()))
                while not self._supervisor.done:
                    await self._something()
                    self.do(self._supervisor.wake(time.monotonic()))
        finally:
            os.close(write_end)
            os.close(read_end)

    def do(self, actions: Iterable[Action]) -> None:
        """Do what the supervisor has decided."""
        for action in actions:
            if isinstance(action, Start):
                self._lives.create_task(self._live(action.name, action.life))
            elif isinstance(action, Send):
                self._send(action.name, action.number)
            else:
                self._show(action)
        self._changed.set()

    async def _something(self) -> None:
        """Wait until something has changed, or the supervisor wants to be woken."""
        self._changed.clear()
        at = self._supervisor.wake_at()
        with suppress(TimeoutError):
            async with asyncio.timeout(None if at is None else max(0.0, at - time.monotonic())):
                await self._changed.wait()

    def _send(self, name: str, number: signal.Signals) -> None:
        process = self._running.get(name)
        if process is None:
            self._unsent[name].append(number)
        elif isinstance(process, Piped):
            process.send(number)
        elif process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    async def _live(self, name: str, life: int) -> None:
        """Start a service's process, follow it to its end and report that."""
        try:
            process = await self._start(name)
        except (OSError, RattleError) as error:
            status: int = 1
            last: Event | str = f"it cannot be started: {_why(error)}"
        else:
            status, last = await self._follow(process, name, life)
        self._unsent.pop(name, None)
        self.do(self._supervisor.exited(name, life, status, last, time.monotonic()))

    async def _start(self, name: str) -> Started:
        """Start a service's process: as a fork of the template, if there is one; raises OSError."""
        arguments = self._command(name)
        environment = {**self._environment, "SERVICE_NAME": name}
        service = self._supervisor.services[name].service
        if service.prefix and self._parcel is not None:
            return await start_piped(service.prefix, self._parcel.request(service, arguments, environment), environment)
        template = current()
        if template is not None and self._program == RATTLE and template.suits(environment):
            async with self._forking:
                with suppress(OSError):
                    return await template.start([LEASH, *arguments], environment, self._leash)
        return await asyncio.create_subprocess_exec(
            *self._program,
            *arguments,
            stdin=self._leash,
            stdout=PIPE,
            stderr=PIPE,
            env=environment,
            start_new_session=True,
        )

    async def _follow(self, process: Started, name: str, life: int) -> tuple[int, Event | str]:
        """Return the exit status of a process and what it said last."""
        self._running[name] = process
        try:
            for number in self._unsent.pop(name, ()):
                self._send(name, number)
            self.do(self._supervisor.started(name, life, process.pid))
            messages = Messages(name)
            with LogFile(self._logs / f"{name}.log", _LOG_BYTES, _LOGS_KEPT) as log:
                async with asyncio.TaskGroup() as reading:
                    readers = [
                        reading.create_task(self._read_stdout(process, name, life, log)),
                        reading.create_task(self._read_stderr(process, name, messages, log)),
                    ]
                    try:
                        status = await process.wait()
                    finally:
                        self._send(name, signal.SIGKILL)  # in vain, unless this task is cancelled
                        await process.wait()
                    await asyncio.wait(readers, timeout=_LAST_WORDS_SECONDS)
                    for reader in readers:
                        reader.cancel()
            return status, messages.last
        finally:
            del self._running[name]

    async def _read_stdout(self, process: Started, name: str, life: int, log: LogFile) -> None:
        first = True
        async for line in _lines(process.stdout, log):
            if first:
                self.do(self._supervisor.said(name, life, line, time.monotonic()))
            first = False

    async def _read_stderr(self, process: Started, name: str, messages: Messages, log: LogFile) -> None:
        async for line in _lines(process.stderr, log):
            said = messages.take(line)
            if said is not None:
                self._show(said)


def _why(error: Exception) -> str:
    """Return why a process cannot be started."""
    if not isinstance(error, OSError):
        return str(error)
    named = f"{one_line(os.fsdecode(error.filename), 200)}: " if isinstance(error.filename, str | bytes) else ""
    return f"{named}{error.strerror}"


async def _lines(stream: asyncio.StreamReader | None, log: LogFile) -> AsyncIterator[str]:
    """Yield the lines of a stream, the ends of overlong ones left out, and put all of it into the log."""
    if stream is None:
        return
    rest = b""
    text = codecs.getincrementaldecoder("utf-8")(errors="replace")  # bytes of no letter may be control characters too
    while chunk := await stream.read(2**16):
        with suppress(OSError):  # what the disk does not take is lost, and breaks nothing
            log.write(_CONTROL.sub("?", text.decode(chunk)).encode())
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[:_LONGEST_LINE]
        for line in lines:
            yield line[:_LONGEST_LINE].decode(errors="replace")
    with suppress(OSError):
        log.write(text.decode(b"", final=True).encode())
    if rest:
        yield rest.decode(errors="replace")
