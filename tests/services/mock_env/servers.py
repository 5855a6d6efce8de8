"""Mock environments in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.template import RattleProcess

MOCK_ENV = [sys.executable, "-m", "rattle.cli", "mock-env"]


@contextmanager
def mock_env_process(*arguments: str) -> Iterator[tuple[RattleProcess, str]]:
    """Start `rattle mock-env` and give the process and its address; it is killed at the end."""
    port = [] if "--port" in arguments else ["--port", "0"]
    process = RattleProcess("mock-env", *port, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        assert first, process.stderr.read()
        yield process, json.loads(first)["url"]
    finally:
        process.kill()
        process.communicate()
