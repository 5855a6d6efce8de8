"""Arrays as they travel, read strictly and apart from Rattle's own codec, so that a bug there is noticed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.conformance.judging import expect, fail, kind
from rattle.conformance.target import JSON_TYPE, MSGPACK_TYPE

Array = NDArray[Any]
#: A state, which clients only hand back, may hold uint64 next to the dtypes that every message has.
STATE_DTYPES = ("bool", "uint8", "int32", "int64", "uint32", "float32", "uint64")


@dataclass(frozen=True)
class ArrayEncoding:
    """One of the two encodings: its media type and what differs between them."""

    name: str
    media_type: str
    encode: Callable[[Any], bytes]
    #: An array as it is in a message of this encoding.
    pack: Callable[[Array], Any]


def _pack_binary(array: Array) -> dict[str, Any]:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": little.tobytes()}


JSON = ArrayEncoding("JSON", JSON_TYPE, msgspec.json.encode, lambda array: array.tolist())
MSGPACK = ArrayEncoding("MessagePack", MSGPACK_TYPE, msgspec.msgpack.encode, _pack_binary)


def read_array(value: Any, where: str, dtype: str, shape: tuple[int, ...]) -> Array:
    """Return the array that `value` is in either encoding; ends the check unless it has this dtype and shape."""
    if isinstance(value, list):
        return _from_lists(value, where, dtype, shape)
    expect(isinstance(value, dict), f"{where} is {kind(value)}, not an array", expected=f"{dtype} {shape}", got=value)
    return _from_map(value, where, dtype, shape)


def read_state_array(value: Any, where: str) -> Array:
    """Return an array of a state, of the dtype and shape that it says it has (MessagePack)."""
    expect(isinstance(value, dict), f"{where} is {kind(value)}, not a map of dtype, shape and data", got=value)
    shape = value.get("shape")
    expect(isinstance(shape, list), f"{where}.shape is {kind(shape)}, not a list", got=value)
    dtype = value.get("dtype")
    expect(dtype in STATE_DTYPES, f"{where}.dtype is {dtype!r}", expected=f"one of {', '.join(STATE_DTYPES)}")
    return _from_map(value, where, str(dtype), tuple(shape))


def _from_map(value: dict[str, Any], where: str, dtype: str, shape: tuple[int, ...]) -> Array:
    missing = {"dtype", "shape", "data"} - value.keys()
    expect(
        not missing,
        f"{where} lacks {', '.join(sorted(missing))}: an array is a map of dtype, shape and data",
        got=value,
    )
    expect(
        value["dtype"] == dtype, f"{where} has dtype {value['dtype']}, not {dtype}", expected=dtype, got=value["dtype"]
    )
    found = value["shape"]
    expect(list(shape) == found, f"{where} has shape {found}, not {list(shape)}", expected=list(shape), got=found)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    expect(isinstance(value["data"], bytes), f"{where}.data is {kind(value['data'])}, not binary data", got=value)
    expect(
        len(value["data"]) == size,
        f"{where}.data has {len(value['data'])} bytes: {dtype} {list(shape)} has {size}",
        expected=f"{size} bytes",
        got=f"{len(value['data'])} bytes",
    )
    array: Array = np.frombuffer(value["data"], np.dtype(dtype).newbyteorder("<")).reshape(shape)
    if dtype == "bool":
        raw = array.view(np.uint8)
        expect((raw < 2).all(), f"{where} is bool, but holds bytes other than 0 and 1", got=value["data"][:64])
    return array


def _from_lists(value: list[Any], where: str, dtype: str, shape: tuple[int, ...]) -> Array:
    _check_lists(value, where, dtype, shape)
    try:
        return np.array(value, dtype).reshape(shape)
    except OverflowError as error:
        fail(f"{where} holds a number that {dtype} cannot: {error}", expected=dtype, got=value)


def _check_lists(value: Any, where: str, dtype: str, shape: tuple[int, ...]) -> None:
    """End the check unless nested lists have the shape, and numbers or booleans as the dtype asks."""
    if not shape:
        _check_number(value, where, dtype)
        return
    expect(isinstance(value, list), f"{where} is {kind(value)}, not a list of {shape[0]}", expected=shape, got=value)
    expect(
        len(value) == shape[0],
        f"{where} has {len(value)} entries, not {shape[0]}",
        expected=f"{shape[0]} entries",
        got=f"{len(value)} entries",
    )
    for i, part in enumerate(value):
        _check_lists(part, f"{where}[{i}]", dtype, shape[1:])


def _check_number(value: Any, where: str, dtype: str) -> None:
    if dtype == "bool":
        fits = isinstance(value, bool)
    elif dtype == "float32":
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        fits = isinstance(value, int) and not isinstance(value, bool)
    wanted = {"bool": "true or false", "float32": "a number"}.get(dtype, f"an integer ({dtype})")
    expect(fits, f"{where} is {kind(value)}, not {wanted}", expected=wanted, got=value)
