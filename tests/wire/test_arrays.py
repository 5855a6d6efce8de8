"""Arrays on the wire: what is packed comes back, and what contradicts itself is refused by the name of its field."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rattle.wire.arrays import DTYPES, Array, pack, unpack
from rattle.wire.problems import RequestError

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
ARRAYS = st.sampled_from(sorted(DTYPES)).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))


def same(found: np.ndarray[Any, Any], array: np.ndarray[Any, Any]) -> bool:
    return found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()


@given(ARRAYS)
def test_what_is_packed_comes_back(array: np.ndarray[Any, Any]) -> None:
    assert same(unpack(pack(array), "x"), array)


@given(ARRAYS)
def test_neither_order_in_memory_nor_of_bytes_matters(array: np.ndarray[Any, Any]) -> None:
    turned = np.array(array, array.dtype.newbyteorder(">"), order="F")
    assert same(unpack(pack(turned), "x"), array)
    if array.ndim:
        assert same(unpack(pack(array[::-1]), "x"), np.ascontiguousarray(array[::-1]))


def test_memory_is_shared_where_it_can_be_and_never_writable() -> None:
    array = np.arange(6, dtype=np.int32)
    packed = pack(array)
    array[0] = 9
    data = bytes(packed.data)
    assert data == array.tobytes()
    found = unpack(Array("int32", (6,), memoryview(data)), "x")
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "said"),
    [
        ("float64", (1,), bytes(8), "dtype must be one of bool, uint8"),
        ("object", (1,), bytes(8), "dtype"),
        ("", (0,), b"", "dtype"),
        ("<i4", (1,), bytes(4), "dtype"),
        ("int32", (1,), bytes(3), "takes 4 bytes, got 3"),
        ("int32", (2,), bytes(4), "takes 8 bytes, got 4"),
        ("int32", (), b"", "takes 4 bytes, got 0"),
        ("int32", (-1,), b"", "lengths from 0"),
        ("int32", (-1, -1), bytes(4), "lengths from 0"),
        ("uint8", (2**64,), b"", "lengths from 0"),
        ("uint8", (2**31,), b"", "lengths from 0"),
        ("uint8", (0, *(2**31 - 1,) * 3), b"", "no array has the shape"),
        ("int64", (2**31 - 1,) * 8, b"", "bytes, got 0"),
        ("bool", (2,), b"\x01\x02", "bytes 0 and 1, got 2"),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_field(
    dtype: str, shape: tuple[int, ...], data: bytes, said: str
) -> None:
    with pytest.raises(RequestError, match=said) as refused:
        unpack(Array(dtype, shape, memoryview(data)), "action")
    assert (refused.value.code, refused.value.field) == ("bad_value", "action")
    assert str(refused.value).startswith("action: ")


def test_an_array_of_more_than_eight_dimensions_is_refused_before_it_is_decoded() -> None:
    eight, nine = (msgspec.msgpack.encode(Array("uint8", (1,) * n, memoryview(b"x"))) for n in (8, 9))
    assert unpack(msgspec.msgpack.decode(eight, type=Array), "action").shape == (1,) * 8
    with pytest.raises(msgspec.ValidationError, match=r"length <= 8 - at `\$\.shape`"):
        msgspec.msgpack.decode(nine, type=Array)


@given(
    st.sampled_from([*sorted(DTYPES), "float64", "x"]),
    st.lists(st.integers(-2, 2**65) | st.integers(0, 3), max_size=10).map(tuple),
    st.binary(max_size=64),
)
def test_any_array_is_one_or_is_refused(dtype: str, shape: tuple[int, ...], data: bytes) -> None:
    refused = None
    try:
        found = unpack(Array(dtype, shape, memoryview(data)), "x")
    except RequestError as error:
        refused = error
    if refused is not None:
        assert (refused.code, refused.field) == ("bad_value", "x")
    else:
        assert found.shape == shape
        assert found.tobytes() == data
