"""How a process that takes large messages holds on to memory."""

from __future__ import annotations

import ctypes

# glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGE = 2**30


def keep_memory() -> None:
    """Have the C library keep what was freed, for the next message of its size.

    Else it gives megabytes back to the system and gets them again, page by page, for every message: that takes longer
    than to fill them. Does nothing where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)
