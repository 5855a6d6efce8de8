"""Arrays in gRPC messages: raw little-endian bytes with their dtype and shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rattle.services.utils.protos import training_pb2
from rattle.wire.problems import RequestError

if TYPE_CHECKING:  # a message is read where nothing is learnt too, by services that have no PyTorch
    import torch

#: The types that an array may have in a message, little-endian.
DTYPES: dict[int, np.dtype[Any]] = {
    training_pb2.DTYPE_BOOL: np.dtype(np.bool_),
    training_pb2.DTYPE_UINT8: np.dtype(np.uint8),
    training_pb2.DTYPE_INT32: np.dtype("<i4"),
    training_pb2.DTYPE_INT64: np.dtype("<i8"),
    training_pb2.DTYPE_UINT32: np.dtype("<u4"),
    training_pb2.DTYPE_FLOAT32: np.dtype("<f4"),
}
_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}

#: A length that a shape asks for; None where any will do.
Length = int | None


def to_message(array: NDArray[Any] | torch.Tensor) -> training_pb2.Tensor:
    """Return an array, or a tensor of PyTorch on any device, as a message.

    Raises TypeError for a dtype that messages do not have.
    """
    message = training_pb2.Tensor()
    fill_message(message, array)
    return message


def fill_message(message: training_pb2.Tensor, array: NDArray[Any] | torch.Tensor) -> None:
    """Put an array into a message, in two copies of its bytes; raises TypeError as `to_message` does."""
    values = array if isinstance(array, np.ndarray) else array.detach().cpu().numpy()
    dtype = values.dtype.newbyteorder("<")
    if dtype not in _NUMBERS:
        raise TypeError(f"a message holds no {values.dtype}: convert it to one of {_names(DTYPES.values())}")
    message.dtype = _as_enum(_NUMBERS[dtype])
    message.shape[:] = values.shape
    message.data = values.astype(dtype, copy=False).tobytes()


def from_message(
    tensor: training_pb2.Tensor,
    field: str,
    dtypes: np.dtype[Any] | type[np.generic] | Sequence[type[np.generic]],
    shape: Sequence[Length],
) -> NDArray[Any]:
    """Return a read-only array over the bytes of a message.

    Raises RequestError naming `field` unless it has one of `dtypes`, the shape (None: any length) and exactly as many
    bytes as these take.
    """
    wanted = [np.dtype(dtype).newbyteorder("<") for dtype in (dtypes if isinstance(dtypes, Sequence) else [dtypes])]
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None or dtype not in wanted:
        found = f"number {tensor.dtype}" if dtype is None else dtype.name
        raise _wrong(field, "is missing" if not tensor.dtype else f"must be {_names(wanted)}, got {found}")
    lengths = tuple(tensor.shape)
    if not _fits(lengths, shape):
        asked = ", ".join("any" if length is None else str(length) for length in shape)
        given = f"[{', '.join(map(str, lengths[:8]))}]" if len(lengths) <= 8 else f"{len(lengths)} lengths"
        raise _wrong(field, f"must have the shape [{asked}], got {given}")
    data = tensor.data  # a copy each time that it is asked for
    size = math.prod(lengths) * dtype.itemsize
    if len(data) != size:
        raise _wrong(field, f"{dtype.name} {list(lengths)} takes {size} bytes, got {len(data)}")
    values = np.frombuffer(data, np.uint8 if dtype == np.bool_ else dtype)
    if dtype == np.bool_ and values.max(initial=0) > 1:  # such a boolean is neither true nor false
        raise _wrong(field, f"bool holds bytes 0 and 1, got {values.max()}")
    try:
        return values.view(dtype).reshape(lengths)
    except ValueError:  # an empty array may still say lengths that no array has
        raise _wrong(field, f"no array has the shape {list(lengths)}") from None


def _fits(lengths: Sequence[int], shape: Sequence[Length]) -> bool:
    return len(lengths) == len(shape) and all(
        0 <= length < 2**31 and asked in (None, length) for length, asked in zip(lengths, shape, strict=True)
    )


def _as_enum(number: int) -> training_pb2.DType.ValueType:
    return training_pb2.DType.ValueType(number)


def _names(dtypes: Any) -> str:
    return " or ".join(np.dtype(dtype).name for dtype in dtypes)


def _wrong(field: str, what: str) -> RequestError:
    return RequestError("bad_value", f"{field}: {what}", field)
