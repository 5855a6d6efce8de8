"""Teaches schemathesis MessagePack."""

from __future__ import annotations

from typing import Any

import msgspec
import schemathesis


@schemathesis.serializer("application/msgpack")
def messagepack(context: Any, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, TypeError):  # MessagePack has no integers above 64 bits
        return b"\xc1"
