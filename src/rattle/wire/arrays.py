"""Arrays on the wire: raw little-endian bytes in MessagePack, nested lists in JSON."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.wire.problems import RequestError

#: The types that an array may have on the wire.
DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("bool", "uint8", "int32", "int64", "uint32", "uint64", "float32")
}
#: Their names: NumPy's own way to name a type takes long.
NAMES = {np.dtype(name): name for name in DTYPES}


class Array(msgspec.Struct):
    """An array in MessagePack: `data` holds its elements in C order, little-endian."""

    dtype: str
    shape: Annotated[tuple[int, ...], msgspec.Meta(max_length=8)]
    data: memoryview


def pack(array: NDArray[Any]) -> Array:
    """Return an array as it goes into MessagePack, sharing its memory where it is contiguous."""
    name = NAMES[array.dtype.newbyteorder("=")]
    flat = np.ascontiguousarray(array, DTYPES[name]).reshape(-1)
    return Array(name, array.shape, flat.view(np.uint8).data)


class ReusedArray:
    """An array that is sent again and again, packed once: each message carries its current content."""

    __slots__ = ("array", "packed")

    def __init__(self, array: NDArray[Any]) -> None:
        if not array.flags.c_contiguous or array.dtype.newbyteorder("<") != array.dtype:
            raise ValueError("an array must be contiguous and little-endian: copy it first")
        self.array = array
        self.packed = pack(array)


def unpack(array: Array, field: str) -> NDArray[Any]:
    """Return a read-only view of a received array; raises RequestError naming `field` when it contradicts itself."""
    dtype = DTYPES.get(array.dtype)
    if dtype is None:
        raise RequestError(
            "bad_value", f"{field}: dtype must be one of {', '.join(DTYPES)}, got {array.dtype!r}", field
        )
    if not all(0 <= length < 2**31 for length in array.shape):
        raise RequestError(
            "bad_value", f"{field}: shape must hold lengths from 0 to 2**31 - 1, got {array.shape}", field
        )
    expected = math.prod(array.shape) * dtype.itemsize
    if len(array.data) != expected:
        raise RequestError(
            "bad_value",
            f"{field}: {array.dtype} {list(array.shape)} takes {expected} bytes, got {len(array.data)}",
            field,
        )
    values = np.frombuffer(array.data, np.uint8 if dtype == np.bool_ else dtype)
    if dtype == np.bool_ and values.size and values.max() > 1:  # such a boolean is neither true nor false
        raise RequestError("bad_value", f"{field}: bool holds bytes 0 and 1, got {values.max()}", field)
    try:
        return values.view(dtype).reshape(array.shape)
    except ValueError:  # an empty array may still say lengths that no array has
        raise RequestError("bad_value", f"{field}: no array has the shape {list(array.shape)}", field) from None
