"""Reading arrays: whatever differs from the dtype and shape that the contract asks for is said in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rattle.conformance.arrays import JSON, MSGPACK, read_array, read_state_array
from rattle.conformance.judging import Failed
from rattle.conformance.target import decode

DTYPES = ("bool", "uint8", "int32", "int64", "uint32", "float32")


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=4),
            elements={"allow_nan": False, "allow_infinity": False} if dtype == "float32" else None,
        )
    ),
    st.sampled_from([JSON, MSGPACK]),
)
def test_an_array_comes_back_from_both_encodings(array: np.ndarray[Any, Any], encoding: Any) -> None:
    value = decode(encoding.media_type, encoding.encode(encoding.pack(array)))
    found = read_array(value, "x", array.dtype.name, array.shape)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    ("value", "dtype", "shape", "sentence"),
    [
        ([1, 2], "int32", (3,), "x has 2 entries, not 3"),
        ([1, 2.0], "int32", (2,), r"x\[1\] is a number with a fraction, not an integer"),
        ([1, True], "int32", (2,), r"x\[1\] is a boolean, not an integer"),
        ([0, 1], "bool", (2,), r"x\[0\] is an integer, not true or false"),
        ([0, None], "float32", (2,), r"x\[1\] is null, not a number"),
        ([[1], 2], "uint8", (2, 1), r"x\[1\] is an integer, not a list of 1"),
        ([300], "uint8", (1,), "holds a number that uint8 cannot"),
        ([-1], "uint32", (1,), "holds a number that uint32 cannot"),
        ("AA==", "uint8", (1,), "x is a string, not an array"),
        ({"dtype": "uint8", "shape": [1]}, "uint8", (1,), "x lacks data"),
        ({"dtype": "int64", "shape": [1], "data": bytes(8)}, "int32", (1,), "x has dtype int64, not int32"),
        ({"dtype": "int32", "shape": [2], "data": bytes(8)}, "int32", (1,), r"x has shape \[2\], not \[1\]"),
        ({"dtype": "int32", "shape": [1], "data": bytes(3)}, "int32", (1,), r"has 3 bytes: int32 \[1\] has 4"),
        ({"dtype": "int32", "shape": [1], "data": "AAAA"}, "int32", (1,), "x.data is a string, not binary data"),
        ({"dtype": "bool", "shape": [1], "data": b"\x02"}, "bool", (1,), "holds bytes other than 0 and 1"),
    ],
)
def test_what_is_wrong_is_said(value: Any, dtype: str, shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(Failed, match=sentence):
        read_array(value, "x", dtype, shape)


def test_a_state_may_hold_uint64_but_no_object_types() -> None:
    packed = MSGPACK.pack(np.array([2**63], np.uint64))
    assert read_state_array(packed, "x").tolist() == [2**63]
    with pytest.raises(Failed, match=r"x\.dtype is 'object'"):
        read_state_array({**packed, "dtype": "object"}, "x")
