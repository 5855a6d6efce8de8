"""Messages of rows: what goes to the broker, and how the outbox keeps it on disk."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final, Literal

import msgspec

#: Which messages are dropped first where there is no more room; rows of a run never are.
Importance = Literal["rows", "logs", "debug"]

JSON_LINES: Final = "application/x-ndjson"
PARQUET: Final = "application/vnd.apache.parquet"
#: Of what the bodies hold; ingest refuses another.
SCHEMA: Final = 1

_MAGIC: Final = b"rtl1"
_HEAD: Final = struct.Struct("<4sIII")  # magic, bytes of the description and of the body, checksum of both


class Message(msgspec.Struct, frozen=True):
    """Rows of one table.

    `number` counts the messages of an outbox; `message_id` is the same whenever the message is published again, as is
    `made`: when the rows became a message, in microseconds since 1970; 0 where an earlier version has kept it.
    """

    number: int
    message_id: str
    table: str
    importance: Importance
    run_id: str
    routing_key: str
    rows: int
    content_type: str
    made: int = 0
    body: bytes = b""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Message).decode


def dump_message(message: Message) -> bytes:
    """Return a message as a record of a file."""
    description = _encode(msgspec.structs.replace(message, body=b""))
    checksum = zlib.crc32(message.body, zlib.crc32(description))
    return _HEAD.pack(_MAGIC, len(description), len(message.body), checksum) + description + message.body


def read_message(read: Callable[[int, int], bytes], start: int) -> tuple[Message, int] | None:
    """Return the message whose record begins at `start`, and where the next begins; None for none and for a damaged.

    `read` returns the bytes from a place on, as many as it is asked for if there are so many.
    """
    head = read(start, _HEAD.size)
    if len(head) < _HEAD.size:
        return None
    magic, described, length, checksum = _HEAD.unpack(head)
    end = start + _HEAD.size + described + length
    if magic != _MAGIC:
        return None
    content = read(start + _HEAD.size, described + length)
    if len(content) < described + length or zlib.crc32(content) != checksum:
        return None
    try:
        message = _decode(content[:described])
    except msgspec.MsgspecError:
        return None
    return msgspec.structs.replace(message, body=content[described:]), end
