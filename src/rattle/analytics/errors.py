"""The error base class of the analytics package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rattle.errors import RattleError
from rattle.text import one_line


class AnalyticsError(RattleError):
    """A run cannot be found, read, written, asked or drawn."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses in the block into an AnalyticsError that names the file."""
    try:
        yield
    except OSError as error:
        raise AnalyticsError(one_line(f"cannot read {path}: {error.strerror or error}")) from error
