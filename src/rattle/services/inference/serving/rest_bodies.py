"""Bodies of the Open Inference Protocol over HTTP: JSON, and behind it tensors as bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.services.inference.serving.messages import MOST_FIELDS, SMALL_BYTES, InferRequest, InferResponse, Parameter
from rattle.services.inference.serving.tensors import InputTensor, check_parameters, read_bytes, shown, wrong
from rattle.wire import encoding
from rattle.wire.problems import RequestError

#: The header that says how many bytes of a body are JSON, where tensors follow it.
JSON_LENGTH = "Inference-Header-Content-Length"

_DIGITS = 12  # of a length; int refuses to read thousands
#: What each number of a body may take: up to 24 characters, a comma and a blank.
_NUMBER_BYTES = 26
#: Lists are read in pieces of about so many bytes: other threads get their turn in between.
_PIECE_BYTES = 2**15

_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Long = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
#: What reads the numbers of each datatype from JSON: one after another, and row by row.
_DECODERS: dict[str, tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[Any]]] = {
    "UINT8": (msgspec.json.Decoder(list[_Byte]), msgspec.json.Decoder(list[list[_Byte]])),
    "INT64": (msgspec.json.Decoder(list[_Long]), msgspec.json.Decoder(list[list[_Long]])),
    "FP32": (msgspec.json.Decoder(list[float]), msgspec.json.Decoder(list[list[float]])),
}


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Output] = []


class AnswerFormat(NamedTuple):
    """What an answer should look like: its id, and which of its tensors travel as bytes."""

    id: str
    is_binary: dict[str, bool]  # by name
    is_binary_else: bool


def most_bytes(numbers: int) -> int:
    """Return how long a body with so many numbers is at most."""
    return SMALL_BYTES + _NUMBER_BYTES * numbers


def read_request(
    body: bytes, json_length: str | None, model: str, version: str, numbers: int
) -> tuple[InferRequest, AnswerFormat]:
    """Return what a body asks, and how; raises RequestError where it is none, or of more than so many numbers."""
    length = _length(json_length, len(body))
    head = body if length == len(body) else body[:length]
    if length > SMALL_BYTES:
        _check_parts(head, numbers)
    message = encoding.json.decode(head, _Request)
    is_binary = _flag("binary_data_output", message.parameters.get("binary_data_output", False))
    parameters: dict[str, Parameter] = message.parameters
    form = AnswerFormat(
        message.id, {output.name: _is_binary(output, is_binary) for output in message.outputs}, is_binary
    )
    inputs = _inputs(message.inputs, memoryview(body)[length:])
    outputs = [output.name for output in message.outputs]
    return InferRequest(model, version, inputs, outputs, parameters, slow=length > SMALL_BYTES), form


def _check_parts(head: bytes, numbers: int) -> None:
    """Refuse JSON of more parts than a request has: to count signs is quick, to make objects of them is not."""
    if head.count(b":") > MOST_FIELDS:
        raise RequestError("too_large", f"a large body has at most {MOST_FIELDS} fields, those within others included")
    if head.count(b",") > numbers + MOST_FIELDS:
        raise RequestError("too_large", f"a request to this model has at most {numbers} numbers")


def _length(given: str | None, body: int) -> int:
    if given is None:
        return body
    if not given.isdecimal() or len(given) > _DIGITS or int(given) > body:
        raise wrong(JSON_LENGTH, f"must be a number of bytes of the body, which has {body}, got {shown(given)}")
    return int(given)


def _is_binary(output: _Output, otherwise: bool) -> bool:
    check_parameters(output.name, output.parameters)
    return _flag("binary_data", output.parameters.get("binary_data", otherwise))


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise wrong(name, f"must be true or false, got {shown(value)}")
    return value


def _inputs(inputs: Sequence[_Input], tail: memoryview) -> list[InputTensor]:
    """Give each input its part of the bytes behind the JSON, which must be used up."""
    tensors, first = [], 0
    for tensor in inputs:
        size = _size(tensor)
        if size is None:
            read = partial(_read_lists, tensor)
        else:
            read = partial(read_bytes, tensor.name, tail[first : first + size])
            first += size
        tensors.append(InputTensor(tensor.name, tensor.datatype, tensor.shape, read))
    if first != len(tail):
        raise wrong(JSON_LENGTH, f"{len(tail)} bytes follow the JSON, the inputs have {first} (binary_data_size)")
    return tensors


def _size(tensor: _Input) -> int | None:
    """Return how many of the bytes behind the JSON are a tensor's; None where its numbers are in the JSON."""
    check_parameters(tensor.name, tensor.parameters)
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if not tensor.data:
            raise wrong(tensor.name, "has neither data nor the parameter binary_data_size")
        return None
    if tensor.data:
        raise wrong(tensor.name, "has data, and also the parameter binary_data_size")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise wrong(tensor.name, f"binary_data_size must be a number of bytes, got {shown(size)}")
    return size


def _read_lists(tensor: _Input, dtype: np.dtype[Any], size: int) -> NDArray[Any]:
    """Return the numbers of JSON, which may be nested as the shape says, or not."""
    content = bytes(tensor.data)
    if (commas := content.count(b",")) > size:
        raise wrong(tensor.name, f"{shown(tensor.shape)} takes {size} numbers, got {commas + 1}")
    flat, nested = _DECODERS[tensor.datatype]
    try:
        if content[1:].lstrip().startswith(b"["):
            array = np.concatenate([np.array(nested.decode(piece), dtype) for piece in _pieces(content, b"]")])
            if array.shape != tuple(tensor.shape):
                raise wrong(tensor.name, f"data has the shape {list(array.shape)} and says {shown(tensor.shape)}")
            return array.ravel()
        return np.concatenate([np.array(flat.decode(piece), dtype) for piece in _pieces(content, b",")])
    except msgspec.ValidationError as error:
        raise wrong(tensor.name, f"data: {error}") from None
    except ValueError:  # from NumPy
        raise wrong(tensor.name, "data: rows must be equally long") from None


def _pieces(content: bytes, end: bytes) -> Iterator[bytes]:
    """Cut a long list behind an `end` of one of its items: together the pieces hold what it holds."""
    first, last = 0, len(content)
    while content[:1] == b"[" and last - first > _PIECE_BYTES:
        behind = content.find(end, first + _PIECE_BYTES)
        comma = content.find(b",", behind) if behind >= 0 else -1
        if comma < 0:
            break
        yield b"[" * (first > 0) + content[first:comma] + b"]"
        first = comma + 1
    yield b"[" * (first > 0) + content[first:]


def write_response(answer: InferResponse, form: AnswerFormat) -> tuple[bytes, int | None]:
    """Return the body of an answer, and how long its JSON is where tensors follow it."""
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for tensor in answer.outputs:
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.array.shape}
        if form.is_binary.get(tensor.name, form.is_binary_else):
            tail.append(tensor.array.tobytes())
            described["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            described["data"] = tensor.array.ravel()
        outputs.append(described)
    message: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version, "outputs": outputs}
    if form.id:
        message["id"] = form.id
    if answer.parameters:
        message["parameters"] = answer.parameters
    head = encoding.json.encode(message)
    return (b"".join((head, *tail)), len(head)) if tail else (head, None)
