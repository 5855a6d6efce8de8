"""Arrays survive messages; messages that contradict themselves are refused by the field's name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from rattle.services.utils.protos import training_pb2
from rattle.services.utils.tensors import DTYPES, from_message, to_message
from rattle.wire.problems import RequestError

ARRAYS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda number: hnp.arrays(DTYPES[number], hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
TYPES = [dtype.type for dtype in DTYPES.values()]


def message(**changes: Any) -> training_pb2.Tensor:
    """Return a sound message of two int32 numbers, but for some changes."""
    return training_pb2.Tensor(
        **{"dtype": training_pb2.DTYPE_INT32, "shape": [2], "data": b"\1\0\0\0\2\0\0\0", **changes}
    )


@given(ARRAYS)
def test_an_array_comes_back_as_it_was(array: NDArray[Any]) -> None:
    sent = training_pb2.Tensor.FromString(to_message(array).SerializeToString())
    received = from_message(sent, "reward", TYPES, array.shape)
    assert received.dtype == array.dtype
    assert received.shape == array.shape
    assert received.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array", [np.arange(12, dtype=np.int32).reshape(3, 4).T, np.arange(20, dtype=np.float32)[::3], np.array([7], ">i4")]
)
def test_any_layout_is_sent_in_c_order_and_little_endian(array: NDArray[Any]) -> None:
    received = from_message(to_message(array), "x", [np.int32, np.float32], array.shape)
    assert received.tolist() == array.tolist()


def test_tensors_of_pytorch_are_sent_as_arrays_are() -> None:
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    assert to_message(tensor.requires_grad_()) == to_message(tensor.detach().numpy())


def test_a_type_that_messages_lack_is_a_mistake_of_the_sender() -> None:
    with pytest.raises(TypeError, match="float64"):
        to_message(np.zeros(3))


def test_the_array_is_over_bytes_that_nobody_writes_to() -> None:
    assert not from_message(message(), "x", np.int32, (None,)).flags.writeable


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (training_pb2.Tensor(), "reward: is missing"),
        (message(dtype=training_pb2.DTYPE_FLOAT32), "reward: must be int32, got float32"),
        (message(dtype=99), "reward: must be int32, got number 99"),
        (message(shape=[3]), r"reward: must have the shape \[2\], got \[3\]"),
        (message(shape=[]), r"reward: must have the shape \[2\], got \[\]"),
        (message(shape=[2, 1]), r"reward: must have the shape \[2\], got \[2, 1\]"),
        (message(shape=[-2]), r"reward: must have the shape \[2\], got \[-2\]"),
        (message(shape=[1] * 100), r"reward: must have the shape \[2\], got 100 lengths"),
        (message(data=b""), "reward: int32 .2. takes 8 bytes, got 0"),
        (message(data=b"\0" * 9), "takes 8 bytes, got 9"),
    ],
)
def test_what_contradicts_itself_is_refused(sent: training_pb2.Tensor, said: str) -> None:
    with pytest.raises(RequestError, match=said) as refused:
        from_message(sent, "reward", np.int32, (2,))
    assert refused.value.field == "reward"
    assert refused.value.code == "bad_value"


@pytest.mark.parametrize("shape", [[-1], [2**31], [2**62, 0], [2**30] * 4 + [0]])
def test_lengths_that_no_array_has_are_refused_where_any_will_do(shape: list[int]) -> None:
    with pytest.raises(RequestError, match=r"must have the shape|no array has the shape"):
        from_message(message(shape=shape, data=b""), "x", np.int32, [None] * len(shape))


def test_booleans_are_zero_or_one() -> None:
    with pytest.raises(RequestError, match="bool holds bytes 0 and 1, got 2"):
        from_message(message(dtype=training_pb2.DTYPE_BOOL, data=b"\1\2"), "x", np.bool_, (2,))
    assert from_message(message(dtype=training_pb2.DTYPE_BOOL, data=b"\1\0"), "x", np.bool_, (2,)).tolist() == [1, 0]


@given(st.builds(training_pb2.Tensor, dtype=st.integers(0, 9), shape=st.lists(st.integers(-3, 3)), data=st.binary()))
def test_any_message_is_an_array_or_is_refused(sent: training_pb2.Tensor) -> None:
    try:
        received = from_message(sent, "x", TYPES, [None] * len(sent.shape))
    except RequestError as error:
        refusal = str(error)
    else:
        refusal = None
        assert received.tobytes() == sent.data
        assert list(received.shape) == list(sent.shape)
    assert refusal is None or refusal.startswith("x: ")
