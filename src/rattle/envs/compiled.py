"""How the functions of the kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function to run without the GIL, and keep the code on disk for the next process.

    Where no folder can be written, as in a read-only installation, every process compiles it anew.
    """
    dispatcher: Any = njit(nogil=True)(function)
    with suppress(RuntimeError):  # no place for the cache
        dispatcher._cache = _CheckedCache(function)  # type: ignore[no-untyped-call]
    return dispatcher


class _CheckedCache(FunctionCache):
    """Numba's cache, less what belongs to another signature, and on a disk that may be full.

    Two processes that compile a function for different types at the same time may write to the same file, and Numba
    would run what it finds there.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the code that was compiled for a signature, None where there is none."""
        found = super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        return found if found is not None and found.signature.args == sig else None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store the code that was compiled for a signature where the disk takes it; it works without."""
        with suppress(OSError):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
