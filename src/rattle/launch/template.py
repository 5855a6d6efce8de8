"""Services as forks of a process that has imported what they need: they start sooner, and share memory.

`begin` forks the template from this process, before anything else of it runs. A fork of the template is a process like
any other, with a process group of its own. Where there is no template, or it has died, services are started from the
beginning: nothing but speed depends on it.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
from setproctitle import setproctitle

#: What services need; PyTorch takes longest. What is not installed is left out: services say so themselves.
MODULES = (
    "rattle.services.env.serve",
    "rattle.services.sync.serve",
    "rattle.services.inference.serve",
    "rattle.services.training.serve",
    "pyarrow.parquet",
)
#: Variables that are read while Python starts or modules are imported: another value needs a start from the beginning.
EARLY = ("PYTHON", "OMP_", "MKL_", "NUMBA_", "TORCH_", "CUDA_", "GRPC_")
_LONGEST_REQUEST = 2**20

#: What a fork runs: it finds its arguments in sys.argv.
Command = Callable[[], object]


class Started(Protocol):
    """A process that runs: what `Processes` needs of an asyncio process."""

    @property
    def pid(self) -> int: ...  # noqa: D102
    @property
    def returncode(self) -> int | None: ...  # noqa: D102
    @property
    def stdout(self) -> asyncio.StreamReader | None: ...  # noqa: D102
    @property
    def stderr(self) -> asyncio.StreamReader | None: ...  # noqa: D102
    async def wait(self) -> int:
        """Return the exit status when it has ended; of a signal, its negative number."""
        ...


def as_request(arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, *, own_group: bool) -> bytes:
    """Return what asks a template for a process that runs a command."""
    content = {"arguments": arguments, "environment": dict(environment), "cwd": str(cwd), "own_group": own_group}
    return json.dumps(content).encode()


def early(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a process must have from its start."""
    return {name: value for name, value in environment.items() if name.startswith(EARLY)}


class Template:
    """The template of this process, as it is asked."""

    def __init__(self, requests: socket.socket) -> None:
        requests.setblocking(False)
        self._requests = requests
        self._early = early(os.environ)
        self.is_alive = True

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Whether a fork can have this environment."""
        return self.is_alive and early(environment) == self._early

    async def start(self, arguments: Sequence[str], environment: Mapping[str, str], stdin: int) -> Started:
        """Run a `rattle` command in a fork, whose standard output and error are pipes; one call at a time.

        Raises OSError where the template makes none.
        """
        request = as_request(arguments, environment, Path.cwd(), own_group=True)
        pipes = [os.pipe() for _ in range(3)]
        theirs = [stdin, *(write_end for _, write_end in pipes)]
        try:
            pid = await self._ask(request, theirs)
        except BaseException:
            for read_end, _ in pipes:
                os.close(read_end)
            raise
        finally:
            for _, write_end in pipes:
                os.close(write_end)
        stdout, stderr, status = [await _reader(read_end) for read_end, _ in pipes]
        return _Fork(pid, stdout, stderr, status)

    async def _ask(self, request: bytes, descriptors: Sequence[int]) -> int:
        try:
            socket.send_fds(self._requests, [request], descriptors)
            answer = await asyncio.get_running_loop().sock_recv(self._requests, 64)
            if not answer:
                raise ConnectionResetError("the template has ended")
        except BaseException:  # cancelled too: an answer that nobody waits for would be taken for the next one
            self.is_alive = False
            raise
        return int(answer)


class _Fork:
    """A process that the template has forked."""

    def __init__(
        self, pid: int, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader, status: asyncio.StreamReader
    ) -> None:
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self._ended = asyncio.ensure_future(self._end(status))

    @property
    def returncode(self) -> int | None:
        """Return the exit status where it has ended."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Return the exit status when it has ended; of a signal, its negative number."""
        return await asyncio.shield(self._ended)

    async def _end(self, status: asyncio.StreamReader) -> int:
        if said := await status.read():
            return int(said)
        await _gone(self.pid)  # the template has died before it, and nobody knows its status any more
        return 1


async def _gone(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _reader(descriptor: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), pipe)
    return reader


_template: Template | None = None


def begin(command: Command) -> None:
    """Fork a template from this process, where that is safe: on Linux, before this process has threads."""
    global _template
    if sys.platform != "linux" or threading.active_count() > 1 or _template is not None:
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if fork() == 0:
        ours.close()
        _be_template(theirs, command)
    theirs.close()
    _template = Template(ours)


def current() -> Template | None:
    """Return the template of this process, if it has one that lives."""
    return _template if _template is not None and _template.is_alive else None


def fork() -> int:
    """Fork this process; threads of libraries, which Python warns of, are asleep while modules are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


# The template itself.


def _be_template(requests: socket.socket, command: Command) -> NoReturn:
    """Fork until the owner has gone; in each fork, run the command."""
    try:
        os.setsid()  # no Ctrl-C in a terminal is meant for it
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):  # its owner's streams end with its owner
            os.dup2(nowhere, stream)
        warm_up(MODULES)
        request = serve(requests)
    except BaseException:
        os._exit(1)
    run(request, command)


def warm_up(modules: Sequence[str]) -> None:
    """Import modules, as far as they are installed, and load the compiled code of the kernels, which takes long too."""
    setproctitle("rattle (template of services)")  # finds its place before the environment of a fork changes
    for name in modules:
        with suppress(ImportError):
            import_module(name)
    from rattle.envs.registry import make_worlds

    worlds = make_worlds("snake", {}, 1, seed=0)
    worlds.step(np.zeros(1, np.int64))
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all of it


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for every request and report how the forks ended; returns in each fork, with its request.

    With a request come its standard streams and the pipe for its exit status. Exits when `requests` is closed.
    """
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    requests.setblocking(True)
    statuses: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([requests.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _report(statuses)
        if requests.fileno() not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 4)
        if not data:
            sys.exit()
        request: dict[str, Any] = json.loads(data)
        if (pid := fork()) == 0:
            _take_streams(descriptors, {woken, wake, requests.detach(), *statuses.values()})
            return request
        if request["own_group"]:
            os.setpgid(pid, pid)
        statuses[pid] = descriptors.pop()
        for descriptor in descriptors:
            os.close(descriptor)
        requests.send(str(pid).encode())


def _take_streams(descriptors: list[int], of_the_template: set[int]) -> None:
    """Have a fork use the streams of its request, and nothing that is the template's."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in (*of_the_template, descriptors.pop()):
        os.close(descriptor)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _report(statuses: dict[int, int]) -> None:
    while statuses:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        pipe = statuses.pop(pid)
        with suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(pipe, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(pipe)


def run(request: Mapping[str, Any], command: Command) -> NoReturn:
    """Run a command with the arguments, environment, working directory and streams that were asked for, and exit."""
    # The template's streams know what its descriptors were: a file, a terminal.
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    np.random.seed()
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.argv = ["rattle", *request["arguments"]]
    setproctitle(" ".join(sys.argv))
    status = 1
    try:
        command()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        _exit(status)


def _exit(status: int) -> NoReturn:
    """End a fork: its threads and what should be done at the end, but not the frames of the process that forked.

    To take everything apart that has been imported would take longer than most of what tests do.
    """
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as multiprocessing does in its forks
    with suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
