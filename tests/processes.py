"""Real services in processes of their own, which tests may kill."""

from __future__ import annotations

import json
import os
import subprocess
from signal import SIGKILL, Signals
from types import TracebackType
from typing import Any, Self

from tests.ports import free_port
from tests.template import NAMESPACE, RattleProcess, start
from tests.trainer.conftest import RATTLE


class ServiceProcess:
    """A service started as a user does; `kill` and `start` let it die and come back at the same address.

    `prefix` is a command that runs it, such as one that sets its clock back; `namespace` is that of its network.
    """

    def __init__(
        self,
        command: str,
        *arguments: str,
        settings: tuple[str, ...] = (),
        prefix: tuple[str, ...] = (),
        namespace: str | None = None,
    ) -> None:
        self._prefix = prefix
        self._environment = None if namespace is None else {**os.environ, NAMESPACE: namespace}
        self._arguments = [command, *arguments, *(part for setting in settings for part in ("--set", setting))]
        self._port = free_port()  # nobody takes it while it is away
        self._process: subprocess.Popen[str] | RattleProcess | None = None
        self.hello: dict[str, Any] = {}
        self.start()

    @property
    def url(self) -> str:
        return str(self.hello["url"])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait for its first line."""
        arguments = [*self._arguments, "--port", str(self._port)]
        if self._prefix:
            command = [*self._prefix, *RATTLE, *arguments]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        else:
            self._process = start(*arguments, env=self._environment, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.hello = json.loads(self._process.stdout.readline())
        address = str(self.hello.get("url") or self.hello["address"])
        self._port = int(address.rpartition(":")[2])

    def signal(self, number: Signals) -> None:
        """Send a signal, such as SIGSTOP."""
        os.kill(self.pid, number)

    @property
    def exit_status(self) -> int | None:
        """Return its exit status; None while it runs."""
        return None if self._process is None else self._process.poll()

    def kill(self, number: Signals = SIGKILL) -> int:
        """End it with a signal and return its exit status."""
        if self._process is None:
            return 0
        self.signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until it has ended, and return its exit status."""
        assert self._process is not None
        process, self._process = self._process, None
        process.communicate(timeout=240)
        return process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
