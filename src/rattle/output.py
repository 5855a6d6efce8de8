"""Standard output as programs read it: lines that this process means to write, and nothing that others print."""

from __future__ import annotations

import os
import sys
from typing import TextIO

_claimed: TextIO | None = None


def hush_libraries() -> None:
    """Have libraries that are imported from now on write nothing of their own accord, unless the user wants it.

    gRPC would write of every connection that breaks, and of every handshake that fails. Numba would have colorama,
    where that is installed, reset the colours of a terminal at the very end, also of one that knows none.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING", "1")


def claim_stdout() -> None:
    """Keep standard output for `write_line`; whatever else is printed, also by compiled code, goes to standard error.

    Environments print what they like, and would break JSON lines and the first line of a service.
    """
    global _claimed  # a process has one standard output
    sys.stdout.flush()
    _claimed = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(2, 1)
    sys.stdout = sys.stderr


def write_line(line: str) -> None:
    """Write a line to standard output at once; raises OSError where that takes no more."""
    stream = _claimed or sys.stdout
    stream.write(line + "\n")
    stream.flush()


def silence() -> None:
    """Have nothing more written to a standard output that takes no more: its buffer would fail again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), (_claimed or sys.stdout).fileno())
