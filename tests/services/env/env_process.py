"""`rattle env` as a process, and raw sockets to it."""

from __future__ import annotations

import json
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.template import RattleProcess

PATIENCE = 60.0  # seconds that something may take on a busy machine


class EnvProcess:
    """A running service; `player` steps a session of one world."""

    def __init__(self, process: subprocess.Popen[str] | RattleProcess, url: str) -> None:
        self.process = process
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self._open: list[socket.socket | HTTPConnection] = []

    def connect(self, receive_buffer: int | None = None, source: str | None = None) -> socket.socket:
        handle = socket.socket()
        self._open.append(handle)
        handle.settimeout(PATIENCE)
        if receive_buffer is not None:
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source is not None:
            handle.bind((source, 0))
        handle.connect(("127.0.0.1", self.port))
        return handle

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return status and decoded body."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            raw = None if body is None else json.dumps(body).encode()
            connection.request(method, path, raw, {"Content-Type": "application/json"} if method == "POST" else {})
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None
        finally:
            connection.close()

    def player(self) -> Callable[[], None]:
        """Return what takes a step in a session of one world on a connection of its own."""
        status, created = self.ask("POST", "/v1/sessions", {"worlds": 1})
        assert status == 201, created
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        self._open.append(connection)
        number = 0

        def step() -> None:
            nonlocal number
            number += 1
            body = json.dumps({"step": number, "action": [0]}).encode()
            path = f"/v1/sessions/{created['session']}/step"
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            said = json.loads(response.read())
            assert (response.status, said["step"]) == (200, number)

        return step

    def close(self) -> None:
        """Close every connection."""
        for one in self._open:
            one.close()

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


@contextmanager
def env_process(*arguments: str, limit_files: int | None = None) -> Iterator[EnvProcess]:
    """Run `rattle env` until the block ends; `limit_files` is all the files that it may open."""

    def limit() -> None:
        assert limit_files is not None
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit_files, limit_files))

    process: subprocess.Popen[str] | RattleProcess
    if limit_files is None:
        process = RattleProcess("env", "--port", "0", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    else:
        command = [sys.executable, "-m", "rattle.cli", "env", "--port", "0", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        assert first, process.stderr.read()
        running = EnvProcess(process, json.loads(first)["url"])
        try:
            yield running
        finally:
            running.close()
    finally:
        process.kill()
        process.communicate()


def break_off(handle: socket.socket) -> None:
    """Close so that the other side gets a TCP reset."""
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handle.close()


def rest_of(handle: socket.socket) -> bytes:
    """Return what comes until the other side closes; a reset ends it too."""
    parts = []
    try:
        while part := handle.recv(2**16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)
