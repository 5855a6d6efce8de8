"""CRC-32C at the end of messages: TCP's own checksum misses damage, and a flipped bit can be learnt from.

The check value is that of all bytes before it (RFC 3720, B.4), little-endian, so that the whole has a CRC that is
always the same. It finds every error in up to three bits, and in up to 32 bits that are next to each other.
"""

from __future__ import annotations

import struct
import threading

import google_crc32c

from rattle.errors import RattleError
from rattle.events import emit, of_services

#: The checksum of any message that ends in its own checksum.
_WHOLE = 0x48674BC7


class DamagedMessage(RattleError):
    """A message is not what was sent."""


def add_checksum(message: bytes, name: bytes = b"") -> bytes:
    """Return a message with its checksum at the end, after a `name` that tells readers what it is."""
    return b"".join((message, name, struct.pack("<I", google_crc32c.extend(google_crc32c.value(message), name))))


def is_whole(message: bytes) -> bool:
    """Whether a message that ends in its checksum is what was sent."""
    whole: bool = google_crc32c.value(message) == _WHOLE
    return whole


class _Damage:
    """Messages that arrived damaged in this process."""

    lock = threading.Lock()
    messages = 0


def note_damage(source: str, error: str) -> None:
    """Count a message that arrived damaged, and tell the event."""
    with _Damage.lock:
        _Damage.messages += 1
    emit(of_services.DamagedMessage(source=source, error=error))


def damaged_messages() -> int:
    """Return how many messages have arrived damaged in this process."""
    return _Damage.messages
