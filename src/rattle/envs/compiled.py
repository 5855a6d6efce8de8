"""How the functions of the kernels are compiled."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function to run without the GIL, and keep the code on disk for the next process.

    In a read-only installation, as in a container, code is read that was kept when it was installed, if that was on the
    same kind of processor. Where that is not so and no other folder can be written, every process compiles it anew.
    """
    dispatcher: Any = njit(nogil=True)(function)
    with suppress(RuntimeError):  # no place for the cache
        dispatcher._cache = _CheckedCache(function)
    return dispatcher


class _CheckedCache(FunctionCache):
    """Numba's cache, less what belongs to another signature, on a disk that may be full, or may not be written.

    Two processes that compile a function for different types at the same time may write to the same file, and Numba
    would run what it finds there.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        beside = Path(inspect.getfile(function)).with_name("__pycache__")
        stamp, name = self._impl.locator.get_source_stamp(), self._impl.filename_base
        is_other = beside != Path(self.cache_path)
        self._installed = IndexDataCacheFile(str(beside), name, stamp) if is_other else None  # type: ignore[no-untyped-call]

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the code that was compiled for a signature, None where there is none.

        Numba reads the types in an index before it looks whether the source is the same. Where one of them has another
        name by now, as after an update, the index is of no use, and is begun anew.
        """
        try:
            found = super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception:  # pickle has no class for all that it may meet
            found = None
            with suppress(OSError):
                self.flush()  # type: ignore[no-untyped-call]
        if found is None and self._installed is not None:
            with suppress(Exception):
                data = self._installed.load(self._index_key(sig, target_context.codegen()))  # type: ignore[no-untyped-call]
                found = None if data is None else self._impl.rebuild(target_context, data)
        return found if found is not None and found.signature.args == sig else None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store the code that was compiled for a signature where the disk takes it; it works without."""
        with suppress(OSError):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
