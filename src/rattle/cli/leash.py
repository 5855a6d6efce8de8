"""Ends a process with the one that started it, however that dies, and tells it events."""

from __future__ import annotations

import logging
import os
import threading

from rattle.events import EventFormatter


def hold() -> None:
    """End this process when standard input ends, and write warnings as events.

    The system closes the other end of a pipe with the process that holds it, `kill -9` included.
    """
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(EventFormatter())
    logging.getLogger().addHandler(handler)
    threading.Thread(target=_wait, name="leash", daemon=True).start()


def _wait() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
