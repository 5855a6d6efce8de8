"""The sealed datagrams of pace (docs/sync-api.md): their content, their bytes, and their seal. No sockets."""

from __future__ import annotations

import hmac
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from rattle.wire.lockstep import SEAL_BYTES

Sequence = Annotated[int, Meta(ge=1, le=2**63 - 1)]
#: A number that nobody has used before: 16 hexadecimal digits; as text, for JSON's numbers are not exact everywhere.
Unique = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
Timestamp = Annotated[str, Meta(pattern=r"^[0-9TZ:.+-]{19,40}\Z")]
Seal = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


class Beat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The Sync service tells a listener to tick."""

    sequence: Sequence
    timestamp: Timestamp
    life: Unique  # of the service
    nonce: Unique = ""  # of the listener, once the service knows it
    seal: Seal = ""


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A listener answers a beat without its nonce: it wants that repeated in those that follow."""

    sequence: Sequence
    life: Unique
    nonce: Unique
    seal: Seal = ""


Kind = TypeVar("Kind", Beat, Question)


class PaceCodec:
    """Turns beats and questions into sealed JSON and back."""

    def __init__(self, key: bytes) -> None:
        self._keyed = hmac.new(key, digestmod="sha256")

    def encode(self, datagram: Beat | Question) -> bytes:
        """Return the bytes of a datagram, with its seal."""
        return msgspec.json.encode(msgspec.structs.replace(datagram, seal=self._seal(datagram)))

    def decode(self, data: bytes, kind: type[Kind]) -> Kind | None:
        """Return a datagram of a kind, None for what is none or does not carry the right seal."""
        try:
            datagram = msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return datagram if hmac.compare_digest(self._seal(datagram), datagram.seal) else None

    def _seal(self, datagram: Beat | Question) -> str:
        keyed = self._keyed.copy()  # takes in the key once
        keyed.update(_text(datagram).encode())
        return keyed.digest()[:SEAL_BYTES].hex()


def _text(datagram: Beat | Question) -> str:
    """Return what the seal is made of: the two kinds differ, so none can be taken for the other."""
    if isinstance(datagram, Question):
        return f"rattle.pace/1 nonce\n{datagram.life}\n{datagram.nonce}\n{datagram.sequence}"
    return f"rattle.pace/1 tick\n{datagram.life}\n{datagram.nonce}\n{datagram.sequence}\n{datagram.timestamp}"
