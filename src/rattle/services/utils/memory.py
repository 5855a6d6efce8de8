"""How a process that takes large messages holds on to memory."""

from __future__ import annotations

import ctypes
import threading

# glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGE = 2**30
#: How long after a burst memory is given back, in seconds: what ends it is freed by then, and others are answered.
_CALM_SECONDS = 3.0


def keep_memory() -> None:
    """Have the C library keep what was freed, for the next message of its size.

    Else it gives megabytes back to the system and gets them again, page by page, for every message: that takes longer
    than to fill them. Does nothing where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)


_waiting = threading.Lock()


def give_memory_back_soon() -> None:
    """Have the C library give what is free back to the system in a while, once for all that ask until then.

    Else what a burst of requests took stays with the process forever. Does nothing where the library is another one.
    """
    if _waiting.acquire(blocking=False):
        timer = threading.Timer(_CALM_SECONDS, _give_back)
        timer.daemon = True
        timer.start()


def _give_back() -> None:
    _waiting.release()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
