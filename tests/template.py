"""`rattle` commands in processes of their own that begin with everything imported: forks of a template.

To import PyTorch takes longer than most of what tests train. One template a test process imports it once. A fork is a
process like any other, with its own pid, to be signalled and killed. Use `subprocess` where the start itself is tested.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from rattle.launch.template import as_request, early, serve, warm_up
from rattle.launch.template import run as run_forked
from rattle.output import hush_libraries

#: What a template imports: the commands whose tests start many processes.
IMPORTS = (
    "torch",
    "rattle.cli",
    "rattle.rollouts.evaluate",
    "rattle.runs.new_runs",
    "rattle.trainer.train",
    "rattle.learning.learner",
    "rattle.services.env.serve",
    "rattle.services.inference.serve",
    "rattle.services.ingest.serve",
    "rattle.services.training.serve",
    "rattle.services.mock_env.server",
    "rattle.services.sync.serve",
    "rattle.analytics.plot",
    "rattle.analytics.query",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pandas",  # by PyArrow, where it is installed
    "pyarrow.parquet",
)

RATTLE = "rattle.cli"
#: Variables that tell a fork in which network namespace it runs, and which module's `main`.
NAMESPACE, PROGRAM = "TESTS_NETWORK_NAMESPACE", "TESTS_PROGRAM"
CLONE_NEWNET = 0x40000000  # of sched.h; `os` has it from Python 3.12 on


class _Template:
    """The template of this process, started when it is first needed."""

    def __init__(self) -> None:
        self.early = early(os.environ)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=Path(__file__).parents[1], pass_fds=[theirs.fileno()])
        theirs.close()
        atexit.register(self._end)
        self._lock = threading.Lock()

    def _end(self) -> None:
        self._ours.close()
        self._process.wait()

    def fork(self, request: bytes, descriptors: list[int]) -> int:
        """Return the pid of a process that runs a command with these as standard streams; the last gets its status."""
        with self._lock:
            socket.send_fds(self._ours, [request], descriptors)
            return int(self._ours.recv(64))


_template: _Template | None = None
_template_lock = threading.Lock()


def template() -> _Template:
    """Return this process's template."""
    global _template
    with _template_lock:
        _template = _template or _Template()
        return _template


def start(
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    program: str = RATTLE,
) -> RattleProcess | subprocess.Popen[str]:
    """Start a command: as a fork, or really where variables that are read early are not the template's."""
    if early(os.environ if env is None else env) == template().early:
        return RattleProcess(*arguments, cwd=cwd, env=env, stdout=stdout, stderr=stderr, program=program)
    assert program == RATTLE
    command = [sys.executable, "-m", "rattle.cli", *arguments]
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=stdout, stderr=stderr, text=True)


class RattleProcess:
    """A running `rattle` command, with the methods of `subprocess.Popen` that tests use; its streams are text.

    `program` is the module whose `main` is called, such as one that changes something of `rattle` before.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        program: str = RATTLE,
    ) -> None:
        environment = {**(os.environ if env is None else env), PROGRAM: program}
        assert early(environment) == template().early, "a fork cannot have these variables: start a real process"
        self.args = ["rattle", *arguments]
        self.returncode: int | None = None
        self._ends, status = os.pipe()
        self.stdout, out = _pipe(1, stdout)
        self.stderr, err = _pipe(2, stderr)
        nothing = os.open(os.devnull, os.O_RDONLY)
        request = as_request(arguments, environment, cwd or Path.cwd(), own_group=False)
        self.pid = template().fork(request, [nothing, out, err, status])
        for descriptor in (nothing, out, err, status):
            if descriptor > 2:
                os.close(descriptor)

    def poll(self) -> int | None:
        """Return the exit status where it has ended; of a signal, its negative number."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when it has ended."""
        if self.returncode is None:
            if not select.select([self._ends], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(os.read(self._ends, 64))
            os.close(self._ends)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what it wrote, when it has ended and nobody has its streams any more."""
        deadline = None if timeout is None else time.monotonic() + timeout
        parts: dict[int, str] = {}

        def read(number: int, stream: IO[str]) -> None:
            parts[number] = stream.read()

        streams = {n: stream for n, stream in ((1, self.stdout), (2, self.stderr)) if stream and not stream.closed}
        readers = [threading.Thread(target=read, args=given, daemon=True) for given in streams.items()]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        self._close()
        return parts.get(1, ""), parts.get(2, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self.wait()

    def _close(self) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()


def _pipe(number: int, wanted: int | None) -> tuple[IO[str] | None, int]:
    """Return our end of a pipe, if one is wanted, and the descriptor that the process gets."""
    if wanted is None:
        return None, number
    if wanted == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_WRONLY)
    if wanted != subprocess.PIPE:
        return None, os.dup(wanted)
    ours, theirs = os.pipe()
    return os.fdopen(ours, encoding="utf-8"), theirs


def run(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
    program: str = RATTLE,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `subprocess.run` does; kills it when that takes too long."""
    process = start(*arguments, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, program=program)
    try:
        out, err = process.communicate(timeout)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


# The template itself.


def _main() -> None:
    hush_libraries()  # as every command does
    warm_up(IMPORTS)
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if name := request["environment"].pop(NAMESPACE, ""):
        _enter_network(name)
    program = import_module(request["environment"].pop(PROGRAM))
    sys.path[0] = request["cwd"]
    sys.modules["__main__"].__package__ = None  # by which click finds the name of a program
    run_forked(request, program.main)


def _enter_network(name: str) -> None:
    """Move to a network namespace that `ip netns` has made, as `ip netns exec` does."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", name).open() as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"network namespace {name}")


if __name__ == "__main__":
    _main()
