"""How the functions of the kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function to run without the GIL, and keep the code on disk for the next process.

    Where no folder can be written, as in a read-only installation, every process compiles it anew.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no place for the cache
        return njit(nogil=True)(function)
