"""Arrays in memory that processes share; it has no name, so nothing of it is left when they end."""

from __future__ import annotations

import math
import mmap
import os
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.workers.messages import Place

#: Arrays begin at multiples of this: the bytes that processors hold together.
_ALIGNMENT = 64


def allocate(arrays: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> tuple[dict[str, Place], int]:
    """Return a place for each array, by its shape and type, and how many bytes they take together."""
    places, end = {}, 0
    for name, (shape, dtype) in arrays.items():
        places[name] = Place(dtype.str, shape, end)
        end += -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
    return places, max(end, _ALIGNMENT)


def rows(place: Place, first: int, after: int) -> Place:
    """Return where some rows of an array lie."""
    row_bytes = math.prod(place.shape[1:]) * np.dtype(place.dtype).itemsize
    return Place(place.dtype, (after - first, *place.shape[1:]), place.offset + first * row_bytes)


def open_memory(length: int) -> int:
    """Return a descriptor of so many bytes of memory, all zero, which no other process finds."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("rattle worlds", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, length)
    return descriptor


def map_arrays(descriptor: int, length: int, places: Mapping[str, Place]) -> dict[str, NDArray[Any]]:
    """Return the arrays that lie in a descriptor's memory."""
    memory = mmap.mmap(descriptor, length)
    return {
        name: np.ndarray(place.shape, np.dtype(place.dtype), memory, place.offset) for name, place in places.items()
    }
