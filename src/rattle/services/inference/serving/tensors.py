"""Tensors of the Open Inference Protocol, whatever they travel in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rattle.wire.problems import RequestError

#: The datatypes that policies take and give.
DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "INT64": np.dtype("<i8"), "FP32": np.dtype("<f4")}
_SHOWN = 80  # letters
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return what the protocol calls a dtype."""
    return _NAMES[dtype]


class InputTensor(NamedTuple):
    """A tensor of a request; its numbers are read when its name and its form have turned out to be right."""

    name: str
    datatype: str
    shape: Sequence[int]
    read: Callable[[np.dtype[Any], int], NDArray[Any]]  # flat; raises RequestError, at once for too many numbers


class OutputTensor(NamedTuple):
    """A tensor of an answer."""

    name: str
    array: NDArray[Any]

    @property
    def datatype(self) -> str:
        """Return what the protocol calls its dtype."""
        return datatype_of(self.array.dtype)


class TensorDescription(NamedTuple):
    """What is known of a tensor beforehand; -1 stands for any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def read_tensor(tensor: InputTensor, datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array of a tensor, maybe read-only; raises RequestError unless it has this datatype and shape."""
    if tensor.datatype != datatype:
        raise wrong(tensor.name, f"must be {datatype}, got {shown(tensor.datatype)}")
    if tuple(tensor.shape) != shape:
        raise wrong(tensor.name, f"must have the shape {list(shape)}, got {shown(list(tensor.shape))}")
    size = math.prod(shape)
    numbers = tensor.read(DTYPES[datatype], size)
    if numbers.size != size:
        raise wrong(tensor.name, f"{list(shape)} takes {size} numbers, got {numbers.size}")
    return numbers.reshape(shape)


def read_bytes(name: str, content: bytes | memoryview, dtype: np.dtype[Any], size: int) -> NDArray[Any]:
    """Return the numbers of the tensor `name` that its little-endian bytes are, however many."""
    if len(content) % dtype.itemsize:
        raise wrong(name, f"{_NAMES[dtype]} takes {dtype.itemsize} bytes a number, got {len(content)} bytes")
    return np.frombuffer(content, dtype)


def check_parameters(name: str, parameters: Iterable[str]) -> None:
    """Raise RequestError for parameters of a tensor that would change what is asked; others are ignored."""
    for parameter in parameters:
        if parameter.startswith("shared_memory"):
            raise wrong(name, f"{shown(parameter)}: shared memory is not supported")
        if parameter == "classification":
            raise wrong(name, f"{shown(parameter)} is not supported")


def shown(value: object) -> str:
    """Return what a client has sent, short enough for a message."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def wrong(field: str, what: str) -> RequestError:
    """Return the error of a field that is not as it should be."""
    return RequestError("bad_value", f"{field}: {what}", field)
