"""The two encodings of the vector API, and how one is chosen."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.wire.arrays import ReusedArray, pack
from rattle.wire.checksums import DamagedMessage, add_checksum, is_whole
from rattle.wire.problems import RequestError

Message = TypeVar("Message")

JSON = "application/json"
MSGPACK = "application/msgpack"
_ALSO_MSGPACK = ("application/x-msgpack", "application/vnd.msgpack")
#: All that are taken for either.
MEDIA_TYPES = (JSON, MSGPACK, *_ALSO_MSGPACK)
#: Numbers that become JSON in about two milliseconds.
_PIECE_NUMBERS = 2**15


def _array_as_struct(value: object) -> Any:
    if isinstance(value, ReusedArray):
        return value.packed
    if isinstance(value, np.ndarray):
        return pack(value)
    raise NotImplementedError(f"{type(value).__name__} has no place in a message")


def _array_as_lists(value: object) -> Any:
    if isinstance(value, ReusedArray):
        return _lists(value.array)
    if isinstance(value, np.ndarray):
        return _lists(value)
    raise NotImplementedError(f"{type(value).__name__} has no place in a message")


def _lists(array: NDArray[Any]) -> Any:
    """Return an array as lists; a long one is encoded in pieces, between which other threads continue."""
    if array.size <= _PIECE_NUMBERS:
        return array.tolist()
    rows = max(1, _PIECE_NUMBERS * len(array) // array.size)
    pieces = (msgspec.json.encode(array[first : first + rows].tolist()) for first in range(0, len(array), rows))
    return msgspec.Raw(b"[" + b",".join(piece[1:-1] for piece in pieces) + b"]")


@dataclass(frozen=True)
class Encoding:
    """How messages become bytes; arrays in them are NumPy's."""

    media_type: str
    encode: Callable[[Any], bytes]
    _decode: Callable[[Any, Any], Any]

    def decode(self, body: bytes | bytearray | msgspec.Raw, message: type[Message], field: str = "") -> Message:
        """Return a body as a `message`; raises RequestError that names the field that does not fit.

        The body may be what is in a `field` of another.
        """
        try:
            decoded: Message = self._decode(body, message)
        except msgspec.ValidationError as error:
            raise _bad_value(str(error), field) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError("bad_request", f"the body is not valid {self.media_type}: {error}") from None
        return decoded


#: msgspec describes a message type when its first decoder is made, and crashes where two threads do that at once.
_describing = threading.Lock()


@lru_cache(maxsize=64)
def _msgpack_decoder(message: type[Any]) -> Any:
    with _describing:
        return msgspec.msgpack.Decoder(message)


@lru_cache(maxsize=64)
def _json_decoder(message: type[Any]) -> Any:
    with _describing:
        return msgspec.json.Decoder(message)


json = Encoding(
    JSON,
    msgspec.json.Encoder(enc_hook=_array_as_lists).encode,
    lambda body, message: _json_decoder(message).decode(body),
)
msgpack = Encoding(
    MSGPACK,
    msgspec.msgpack.Encoder(enc_hook=_array_as_struct).encode,
    lambda body, message: _msgpack_decoder(message).decode(body),
)


#: The last member of a message in MessagePack that is checked: "crc32c", and how its four bytes begin.
_CHECKSUM = b"\xa6crc32c\xc4\x04"


def pack_checked(message: Mapping[str, Any]) -> bytes:
    """Return a message in MessagePack whose last member, `crc32c`, is its checksum."""
    return add_checksum(msgpack.encode({**message, "crc32c": msgspec.Raw(_CHECKSUM[-2:])}))


def has_checksum(body: bytes) -> bool:
    """Whether a body in MessagePack ends in a checksum, of whatever."""
    return body[-4 - len(_CHECKSUM) : -4] == _CHECKSUM


def check(body: bytes) -> None:
    """Raise DamagedMessage where a body in MessagePack ends in a checksum that is not its own."""
    if has_checksum(body) and not is_whole(body):
        raise DamagedMessage("its content does not match its checksum")


def of_request(content_type: str | None, *, has_body: bool) -> Encoding:
    """Return the encoding of a request; raises RequestError for one that is not spoken here."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type == MSGPACK or media_type in _ALSO_MSGPACK:
        return msgpack
    if media_type == JSON or (not media_type and not has_body):
        return json
    raise RequestError(
        "unsupported_type", f"Content-Type must be {JSON} or {MSGPACK}, got {content_type!r}", "Content-Type"
    )


def of_answer(accept: str | None, request: Encoding) -> Encoding:
    """Return the encoding of an answer: what `Accept` wants most, the first of equals, by default the request's."""
    if accept is None or not accept.strip():
        return request
    wishes = [_wish(part) for part in accept.lower().split(",")]
    refused = {media_type for media_type, weight in wishes if weight <= 0}
    for media_type, _ in sorted((wish for wish in wishes if wish[1] > 0), key=lambda wish: -wish[1]):
        if media_type in ("*/*", "application/*"):
            for one in (request, json, msgpack):
                if one.media_type not in refused:
                    return one
        if media_type == JSON:
            return json
        if media_type == MSGPACK:
            return msgpack
    raise RequestError(
        "not_acceptable", f"answers come as {JSON} or {MSGPACK}, Accept allows {accept!r} only", "Accept"
    )


def _wish(part: str) -> tuple[str, float]:
    """Return the media type and the weight of one part of an `Accept` header."""
    media_type, *parameters = (one.strip() for one in part.split(";"))
    weight = 1.0
    for parameter in parameters:
        if found := re.fullmatch(r"q=(0(\.\d*)?|1(\.0*)?)", parameter):
            weight = float(found.group(1))
    return MSGPACK if media_type in _ALSO_MSGPACK else media_type, weight


def _bad_value(message: str, field: str) -> RequestError:
    """Return the error of a body, or of a `field`, whose fields do not fit, naming the first of them."""
    text, _, place = message.partition(" - at `")
    place = place.removeprefix("key` in `")
    path = re.sub(r"\[.*", "", place.rstrip("`").removeprefix("$").removeprefix("."))
    if named := re.search(r"(missing required|contains unknown) field `([^`]+)`", text):
        text = "is missing" if named.group(1).startswith("missing") else "there is no such field"
        path = ".".join(part for part in (path, named.group(2)) if part)
    path = path or field
    if not path:
        return RequestError("bad_request", f"the body: {text[0].lower()}{text[1:]}")
    return RequestError("bad_value", f"{path}: {text[0].lower()}{text[1:]}", path)
