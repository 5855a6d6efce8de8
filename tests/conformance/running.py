"""Servers for the tests of the checker: `rattle` in processes, ASGI applications in threads; and runs of checks."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from rattle.conformance.checks import Result
from rattle.conformance.probe import absent_faces
from rattle.conformance.runner import choose, run
from rattle.conformance.table import CHECKS
from rattle.conformance.target import Target
from tests.template import RattleProcess

RATTLE = [sys.executable, "-m", "rattle.cli"]


@contextmanager
def rattle_server(*arguments: str) -> Iterator[str]:
    """Start a server of `rattle` in a process of its own and yield its address."""
    process = RattleProcess(*arguments, "--port", "0", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        assert first, process.stderr.read()
        yield json.loads(first)["url"]
    finally:
        process.kill()
        process.communicate()


@contextmanager
def asgi_server(app: Any) -> Iterator[str]:
    """Serve an ASGI application in a thread and yield its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, lifespan="on", log_level="critical", ws="websockets-sansio", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def results(url: str, *only: str, timeout: float = 5.0) -> dict[str, Result]:
    """Run checks against a server and return their results by id."""
    target = Target(url, timeout)
    try:
        return {result.id: result for result in run(target, CHECKS, choose(CHECKS, only, []), absent_faces(target))}
    finally:
        target.close()
