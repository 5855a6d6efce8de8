"""The far end of a pipe: what runs on another machine when a service is started through a command such as `ssh HOST`.

Standard input brings all that the service needs: first a request, then signals by name, a line each, and empty lines
that say that the launcher lives. The service takes the place of this process, so that its standard output and error,
its exit status and signals to it are those of the command. A second process, the watcher, reads on and ends the service
when the pipe ends, or says nothing any more; the service ends by itself when the watcher does.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import msgspec

from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.writer import storing, write_together
from rattle.errors import RattleError
from rattle.stop_signals import RUN_IS_COMPLETE

#: In the arguments of a request: the folder of the run, and one of this service alone.
RUN, OWN = "@run@", "@own@"
#: What a service is started with where this process was; the option has it end with its standard input.
LEASH = "--leash"
PROGRAM = (sys.executable, "-P", "-m", "rattle.cli", LEASH)
#: The watcher ends the service of a launcher that was not heard for longer, in seconds; it says something every second.
SILENCE_SECONDS = 30.0
#: How long a service may take to end by itself, in seconds.
_LAST_WORDS_SECONDS = 1.0
_LOOK_SECONDS = 0.5
_MOST_DIGITS = 12
_SIGNALS = {number.name.encode(): number for number in (signal.SIGTERM, RUN_IS_COMPLETE, signal.SIGKILL)}


class ServiceRequest(msgspec.Struct):
    """What a service needs."""

    arguments: list[str]  # of the `rattle` command
    variables: dict[str, str]
    run_id: str
    run_dir: str  # as the launcher calls it
    shared_dir: str  # the same from the root: a disk that both machines have may be there
    keeps_run: bool  # whether the service writes into the run's folder
    beginning: dict[str, bytes]  # the files that a run begins with
    own_files: dict[str, bytes]
    token: bytes | None  # of the run, which is stored in its folder; None where the user has named one

    def encode(self) -> bytes:
        """Return what is written into the pipe: the number of bytes as a line, and JSON."""
        content = msgspec.json.encode(self)
        return b"%d\n%b" % (len(content), content)


def read_request(descriptor: int) -> tuple[ServiceRequest, bytes]:
    """Return the request that a pipe brings, and what was read beyond it; raises RattleError."""
    read = b""
    while b"\n" not in read and len(read) <= _MOST_DIGITS and (more := os.read(descriptor, 4096)):
        read += more
    digits, newline, read = read.partition(b"\n")
    if not newline or not digits.isdigit():
        raise RattleError(
            "no request of a launcher came over standard input: the command of topology.prefix must pass it on, "
            "unchanged (docker run -i, kubectl exec -i, not -t; no ssh -n)"
        )
    parts, length = [read], len(read)
    while length < int(digits) and (more := os.read(descriptor, 2**16)):
        parts.append(more)
        length += len(more)
    content, rest = (whole := b"".join(parts))[: int(digits)], whole[int(digits) :]
    try:
        return msgspec.json.decode(content, type=ServiceRequest), rest
    except msgspec.DecodeError as error:
        raise RattleError(
            f"the request of the launcher is not understood: does this machine have the same Rattle? ({error})"
        ) from None


def run() -> NoReturn:
    """Become the service that standard input asks for; raises RattleError."""
    request, rest = read_request(0)
    own = Path(tempfile.mkdtemp(prefix="rattle-"))
    try:
        with storing(own):
            directory, is_shared = _place(request, own)
            for name, content in request.own_files.items():
                _write_secret(own / name, content)
            if request.token is not None and not is_shared:
                _write_secret(directory.token, request.token)
    except BaseException:
        shutil.rmtree(own, ignore_errors=True)
        raise
    read_end, write_end = os.pipe()
    service = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: what follows in the fork takes no lock
        is_watcher = os.fork() == 0
    if is_watcher:
        _be_watcher(service, rest, write_end, [own] if is_shared else [own, directory.token])
    os.dup2(read_end, 0)
    places = {RUN: str(directory.path), OWN: str(own)}
    variables = {**_inherited(os.environ), **request.variables, "RUN_DIR": str(directory.path)}
    os.execve(PROGRAM[0], [*PROGRAM, *placed(request.arguments, places)], variables)  # noqa: S606  # no shell is meant


def placed(arguments: Sequence[str], places: Mapping[str, str]) -> list[str]:
    """Return arguments with the folders that are meant; in settings, which are YAML, as they are written there."""
    made = []
    for argument in arguments:
        for name, folder in places.items():
            if f'"{name}' in argument:  # in quotes
                argument = argument.replace(name, json.dumps(folder)[1:-1])
            argument = argument.replace(name, folder)
        made.append(argument)
    return made


def _inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a service keeps of the environment here: the run's settings are all in its file."""
    return {name: value for name, value in environ.items() if not name.startswith("RATTLE_")}


def _place(request: ServiceRequest, own: Path) -> tuple[RunDirectory, bool]:
    """Return the folder of the run here, and whether it is the launcher's own; raises RattleError.

    A service that stores nothing of the run takes its own.
    """
    shared = RunDirectory(Path(request.shared_dir))
    if _holds(shared, request.run_id):
        return shared, True
    if not request.keeps_run:
        return RunDirectory(own), False
    directory = RunDirectory(Path(request.run_dir).absolute())
    if _holds(directory, request.run_id):
        return directory, False
    if directory.is_run:
        raise RattleError(f"{directory} on this machine holds another run: move it away, or choose another --run-dir")
    with storing(directory.path):
        directory.path.mkdir(parents=True, exist_ok=True)
    with directory.launching():
        if not _holds(directory, request.run_id):
            write_together({directory.path / name: content for name, content in request.beginning.items()})
    return directory, False


def _holds(directory: RunDirectory, run_id: str) -> bool:
    try:
        return bool(json.loads(directory.run.read_bytes())["run_id"] == run_id)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _write_secret(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


# The watcher.


def _be_watcher(service: int, rest: bytes, leash: int, left: Sequence[Path]) -> NoReturn:
    """Watch over the service that this process was forked from, and remove what is `left` of it at its end."""
    try:
        os.setsid()  # what ends the service's group is not meant for it
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):  # they end with the service
            os.dup2(nowhere, stream)
        watch(service, rest)
        os.close(leash)
        _end(service)
    finally:
        for path in left:
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        os._exit(0)


def watch(service: int, rest: bytes, silence_seconds: float = SILENCE_SECONDS) -> None:
    """Pass on the signals that the pipe brings, until it ends, is silent for too long, or the service has ended."""
    heard = time.monotonic()
    while os.getppid() == service:
        *lines, rest = rest.split(b"\n")
        for line in lines:
            if (number := _SIGNALS.get(line)) is not None:
                os.kill(service, number)
        if select.select([0], [], [], _LOOK_SECONDS)[0]:
            if not (more := os.read(0, 4096)):
                return
            rest, heard = rest + more, time.monotonic()
        elif time.monotonic() - heard > silence_seconds:
            return


def _end(service: int) -> None:
    """Kill a service that does not end by itself, now that its own standard input has ended."""
    until = time.monotonic() + _LAST_WORDS_SECONDS
    while os.getppid() == service and time.monotonic() < until:
        time.sleep(0.05)
    if os.getppid() == service:
        with suppress(ProcessLookupError):
            os.kill(service, signal.SIGKILL)
