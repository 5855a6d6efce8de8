"""Ends a process with the one that started it, however that dies, and tells it events and last words."""

from __future__ import annotations

import logging
import os
import threading
from typing import IO, Any

import click

from rattle.errors import RattleError
from rattle.events import ERROR, EventFormatter, event_line


def hold() -> None:
    """End this process when standard input ends, and write warnings as events.

    The system closes the other end of a pipe with the process that holds it, `kill -9` included.
    """
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(EventFormatter())
    logging.getLogger().addHandler(handler)
    threading.Thread(target=_wait, name="leash", daemon=True).start()


class LastWords(click.ClickException):
    """Ends the command with an error; says it as an event where `hold` was called."""

    def __init__(self, error: RattleError, *, is_held: bool) -> None:
        super().__init__(str(error))
        self._event = getattr(error, "event", ERROR)
        self._is_held = is_held

    def show(self, file: IO[Any] | None = None) -> None:
        """Write it to standard error."""
        if self._is_held:
            click.echo(event_line(self._event, self.message), err=True)
        else:
            super().show(file)


def _wait() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
