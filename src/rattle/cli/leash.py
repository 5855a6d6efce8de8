"""Ends a process with the one that started it, however that dies."""

from __future__ import annotations

import os
import threading

from rattle.services.utils.logger import Logs

#: How long the last events may take to be written when the other process has died, in seconds.
_LAST_EVENTS_SECONDS = 0.5


def hold(logs: Logs) -> None:
    """End this process when standard input ends.

    The system closes the other end of a pipe with the process that holds it, `kill -9` included.
    """
    threading.Thread(target=_wait, args=(logs,), name="leash", daemon=True).start()


def _wait(logs: Logs) -> None:
    while os.read(0, 4096):
        pass
    logs.settle(_LAST_EVENTS_SECONDS)
    os._exit(1)
