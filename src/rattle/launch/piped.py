"""Services that are started through a command such as `ssh HOST`: what they are sent, and how they are signalled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rattle.addresses import CREDENTIALS_VARIABLE
from rattle.analytics.errors import reading
from rattle.analytics.run_directory import RunDirectory
from rattle.launch.far_end import OWN, RUN, ServiceRequest
from rattle.launch.service import Kind, LaunchedService
from rattle.settings.experiment import ExperimentSettings

#: What the command is to start.
COMMAND = ("rattle", "from-pipe")
#: The kinds of services that write into the run's folder.
KEEPS_RUN: tuple[Kind, ...] = ("training", "sync")
#: The files that settings name, which travel with them.
_NAMED = (
    *(f"security.{name}" for name in ("token_file", "authority", "certificate", "private_key")),
    *("sync.key_file", "telemetry.ca_file", "telemetry.cert_file", "telemetry.key_file"),
)
#: The variables that travel: those of the run, its credentials, and what is said of logs.
_VARIABLES = ("RUN_ID", "EXPERIMENT_NAME", "SERVICE_NAME", CREDENTIALS_VARIABLE, "LOG_LEVEL", "ENABLE_RABBITMQ")
_VARIABLES_WITH = ("RABBITMQ_",)
_HEARTBEAT_SECONDS = 1.0
_LOOK_SECONDS = 0.2
#: How long a command may take to end after its service was killed, before it is killed itself, in seconds.
_KILL_SECONDS = 1.5


class Parcel:
    """What travels to the services of a run that are started through a command: read when each is started."""

    def __init__(self, directory: RunDirectory, run_id: str, settings: ExperimentSettings) -> None:
        self._directory = directory
        self._run_id = run_id
        self._settings = settings

    def request(
        self, service: LaunchedService, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> ServiceRequest:
        """Return what a service is asked for with; raises AnalyticsError where a file cannot be read."""
        directory, keeps_run = self._directory, service.kind in KEEPS_RUN
        beginning = (directory.environment, directory.first_policy, directory.run, directory.config)
        token = RunDirectory(directory.path.resolve()).token
        own_files, changes = {"config.yaml": _read(directory.config)}, dict[str, str]()
        for key, path in self._named_files().items():
            own_files[key] = _read(path)
            changes[key] = f"{OWN}/{key}"
        is_own = "security.token_file" not in changes
        if is_own:
            changes["security.token_file"] = f"{RUN}/{token.name}"
        return ServiceRequest(
            arguments=[
                *arguments,
                *(part for key, at in changes.items() for part in ("--set", f"{key}={json.dumps(at)}")),
            ],
            variables={name: value for name, value in environment.items() if _travels(name)},
            run_id=self._run_id,
            run_dir=str(directory.path),
            shared_dir=str(directory.path.resolve()),
            keeps_run=keeps_run,
            beginning={path.name: _read(path) for path in beginning if path.exists()} if keeps_run else {},
            own_files=own_files,
            token=_read(token) if is_own else None,
        )

    def _named_files(self) -> dict[str, Path]:
        """Return the files that the settings name, by key; the run's own token is none."""
        named = {}
        for key in _NAMED:
            section, name = key.split(".")
            if (path := getattr(getattr(self._settings, section), name)) is not None:
                named[key] = Path(path)
        if (file := named.get("security.token_file")) and file.resolve() == self._directory.token.resolve():
            del named["security.token_file"]
        return named


def _read(path: Path) -> bytes:
    with reading(path):
        return path.read_bytes()


def _travels(name: str) -> bool:
    return name in _VARIABLES or name.startswith(_VARIABLES_WITH)


class Piped:
    """A command that runs, and the service behind it, which its standard input reaches."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid
        self.stdout, self.stderr = process.stdout, process.stderr
        self._beating = asyncio.create_task(self._beat())

    @property
    def returncode(self) -> int | None:
        """Return the exit status where the command has ended."""
        return self._process.returncode

    async def wait(self) -> int:
        """Return the exit status when the command has ended; of a signal, its negative number."""
        while (status := self.returncode) is None:
            with suppress(TimeoutError):  # asyncio waits for the pipes, too, which a service that is left behind holds
                await asyncio.wait_for(self._process.wait(), _LOOK_SECONDS)
        self._beating.cancel()
        self._close()  # so that such a service ends
        return status

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the service, if it is still there; where that is SIGKILL, the command ends too."""
        if self.returncode is not None:
            return
        self._write(f"{number.name}\n".encode())
        if number == signal.SIGKILL:
            self._close()
            asyncio.get_running_loop().call_later(_KILL_SECONDS, self._kill)

    def _kill(self) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def _beat(self) -> None:
        while True:
            self._write(b"\n")
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    def _write(self, data: bytes) -> None:
        pipe = self._process.stdin
        if pipe is not None and not pipe.is_closing():
            pipe.write(data)

    def _close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


async def start_piped(prefix: Sequence[str], request: ServiceRequest, environment: Mapping[str, str]) -> Piped:
    """Start a service through a command, whose own environment is given; raises OSError."""
    process = await asyncio.create_subprocess_exec(
        *prefix, *COMMAND, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=dict(environment), start_new_session=True
    )
    if process.stdin is not None:
        process.stdin.write(request.encode())
    return Piped(process)
