"""Mock environments in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MOCK_ENV = [sys.executable, "-m", "rattle.cli", "mock-env"]


@contextmanager
def mock_env_process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start `rattle mock-env` and give the process and its address; it is killed at the end."""
    port = [] if "--port" in arguments else ["--port", "0"]
    process = subprocess.Popen(
        [*MOCK_ENV, *port, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        assert first, process.stderr.read()
        yield process, json.loads(first)["url"]
    finally:
        process.kill()
        process.communicate()
