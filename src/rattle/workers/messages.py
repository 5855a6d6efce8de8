"""What a worker and the process that started it say to each other: single bytes, and MessagePack after them."""

from __future__ import annotations

import os
import struct
from typing import Any, Literal, TypeVar

import msgspec

from rattle.envs.vector import Vector
from rattle.wire import encoding
from rattle.wire.arrays import Array

#: What a worker is told: a tick with the actions in shared memory, or what the `Request` after it says.
STEP, ASK = b"s", b"a"
#: What it answers: done, done with an `Answer` after it, or a `Failure` after it.
DONE, ANSWER, FAILED = b".", b"=", b"!"

_LENGTH = struct.Struct("<Q")

Message = TypeVar("Message", bound=msgspec.Struct)


class Place(msgspec.Struct):
    """Where an array lies in shared memory."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class Begin(msgspec.Struct):
    """Which worlds a worker makes, and where they show what they do."""

    environment: str
    settings: dict[str, Any]
    num_worlds: int
    seed: int
    first_world: int
    memory_bytes: int
    places: dict[str, Place]
    path: list[str]  # where modules are found
    code: str | None  # hash of the file of a user's class
    vector: Vector
    episodes: list[int] | None = None  # those after which new ones begin; None: with episode 0


class Begun(msgspec.Struct):
    """What a worker has made, as messages describe an environment."""

    description: bytes
    joins: bool  # whether a state is that of one batch in parts


class Request(msgspec.Struct):
    """What a worker does in addition to steps."""

    do: Literal["reset", "state", "restore", "snapshot"]
    seed: int | None = None
    world: int = 0
    state: dict[str, Array] = {}


class Answer(msgspec.Struct):
    """The result."""

    state: dict[str, Array] = {}
    snapshot: dict[str, Any] = {}


class Failure(msgspec.Struct):
    """What a worker's worlds raised, with its traceback there."""

    kind: str
    text: str
    traceback: str = ""


def write(descriptor: int, head: bytes, message: Any) -> None:
    """Write a message after its first byte."""
    body = encoding.msgpack.encode(message)
    rest = memoryview(head + _LENGTH.pack(len(body)) + body)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def read(descriptor: int, kind: type[Message]) -> Message:
    """Read the message after its first byte; raises EOFError where the other end is gone."""
    (length,) = _LENGTH.unpack(_read_exactly(descriptor, _LENGTH.size))
    return encoding.msgpack.decode(_read_exactly(descriptor, length), kind)


def _read_exactly(descriptor: int, length: int) -> bytearray:
    body = bytearray(length)
    rest = memoryview(body)
    while rest:
        if not (count := os.readv(descriptor, [rest])):
            raise EOFError
        rest = rest[count:]
    return body
