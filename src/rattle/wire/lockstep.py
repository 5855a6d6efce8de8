"""The datagrams of lockstep (docs/sync-api.md): their content, their bytes, and their seal. No sockets."""

from __future__ import annotations

import hmac
from collections import Counter
from enum import IntEnum
from typing import Annotated

import msgspec
from msgspec import Meta

#: The largest datagram, in bytes: it passes any network whole.
MAX_BYTES = 1200
#: How much of its HMAC-SHA256 a datagram carries, in bytes; RFC 2104 advises half of it at least.
SEAL_BYTES = 16
#: The length of a sealed datagram's number.
NUMBER_BYTES = 8
#: So many of a sender's newest numbers are told from copies; older ones are too late.
_NEWEST_NUMBERS = 1024
_NEWEST = (1 << _NEWEST_NUMBERS) - 1
#: The length of a history's hash, in bytes.
HASH_BYTES = 8
MAX_HASHES = 32
#: What the flags of a tick add up: every agent was idle in the tick before; no tick follows. Plain numbers, for an
#: enumeration's arithmetic would take longer than all else that is done with them.
ALL_IDLE, LAST = 1, 2
#: The reason of the last goodbye, when all ticks are done.
RUN_OVER = "the run is over"
#: The reason of a goodbye that invites to join again.
DROPPED = "dropped"

MAX_NUMBER = 2**63 - 1
Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
#: What a member remembers leaves room to go on from.
Remembered = Annotated[int, Meta(ge=0, le=2**62)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z", max_length=64)]
Reason = Annotated[str, Meta(max_length=200)]
Hash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
Hashes = Annotated[dict[Name, Hash], Meta(max_length=MAX_HASHES)]


class Role(IntEnum):
    """What a member does; also the number of the phase that it does it in."""

    AGENT = 1
    ENVIRONMENT = 2


class Phase(IntEnum):
    """A half of a tick."""

    ACT = 1
    STEP = 2


class _Datagram(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What all datagrams have in common."""


class Join(_Datagram, frozen=True, tag=1):
    """A member wants a seat; 0 in what says where it stands if it is fresh."""

    life: Number
    name: Name
    role: Role
    session: Number
    epoch: Remembered
    done_tick: Remembered
    done_phase: Annotated[int, Meta(ge=0, le=2)]
    done_flags: Annotated[int, Meta(ge=0, le=3)]
    idle: bool
    whole: bool = False  # it has done every tick from the first on
    nonce: Number = 0  # that of the service, as its `gathering` said


class Gathering(_Datagram, frozen=True, tag=2):
    """The service waits for more members, or for the nonce; `answers` is the number of the join, as below."""

    life: Number
    present: Number
    wanted: Number
    nonce: Number = 0
    answers: Number = 0


class Welcome(_Datagram, frozen=True, tag=3):
    """A member gets a seat."""

    life: Number
    session: Number
    epoch: Number
    seat: Number
    attempt: Number
    heartbeat_ms: Annotated[int, Meta(ge=1, le=60_000)]
    answers: Number = 0


class Ready(_Datagram, frozen=True, tag=4):
    """A member has taken its seat."""

    session: Number
    epoch: Number
    seat: Number
    attempt: Number


class Tick(_Datagram, frozen=True, tag=5):
    """A member is told to do a piece of work."""

    session: Number
    epoch: Number
    seat: Number
    tick: Number
    phase: Phase
    attempt: Number
    flags: Annotated[int, Meta(ge=0)]
    absent: tuple[Name, ...]


class Working(_Datagram, frozen=True, tag=6):
    """A member is at it."""

    session: Number
    epoch: Number
    seat: Number
    tick: Number
    phase: Phase
    attempt: Number


class Done(_Datagram, frozen=True, tag=7):
    """A member has done it."""

    session: Number
    epoch: Number
    seat: Number
    tick: Number
    phase: Phase
    attempt: Number
    idle: bool
    hashes: Hashes


class Seen(_Datagram, frozen=True, tag=8):
    """The service has a member's answer already."""

    session: Number
    epoch: Number
    seat: Number
    tick: Number
    phase: Phase


class Ping(_Datagram, frozen=True, tag=9):
    """Is the other there?"""

    session: Number
    epoch: Number
    seat: Number
    attempt: Number


class Pong(_Datagram, frozen=True, tag=10):
    """The other is there."""

    session: Number
    epoch: Number
    seat: Number
    attempt: Number


class Unknown(_Datagram, frozen=True, tag=11):
    """The service knows no such seat."""

    session: Number
    epoch: Number
    seat: Number


class SeatRefused(_Datagram, frozen=True, tag=12):
    """The service gives a member no seat; `later_life` is the one of its name that is there, 0 where none is."""

    life: Number
    reason: Reason
    later_life: Number = 0
    answers: Number = 0


class Bye(_Datagram, frozen=True, tag=13):
    """One of both leaves, or knows that the other does."""

    session: Number
    epoch: Number
    seat: Number
    reason: Reason


Datagram = Join | Gathering | Welcome | Ready | Tick | Working | Done | Seen | Ping | Pong | Unknown | SeatRefused | Bye


class Codec:
    """Turns datagrams into bytes and back, sealed where there is a key; counts what it does not take.

    Each sealed datagram has a number, higher than those before: `written` and `read` are those of the newest, 0
    without a key. Members write odd numbers and the service even ones, so that nobody is sent their own datagrams.
    """

    def __init__(self, key: bytes | None = None, *, is_service: bool = False) -> None:
        self.dropped: Counter[str] = Counter(malformed=0, unauthenticated=0)
        self._hmac = None if key is None else hmac.new(key, digestmod="sha256")
        self.written = self.read = 0
        self._own_parity = 0 if is_service else 1
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Datagram).decode

    @property
    def is_sealed(self) -> bool:
        """Whether there is a key."""
        return self._hmac is not None

    def encode(self, datagram: Datagram) -> bytes:
        """Return the bytes of a datagram."""
        body = self._encode(datagram)
        if self._hmac is None:
            return body
        self.written += 2 if self.written else 2 - self._own_parity
        body += self.written.to_bytes(NUMBER_BYTES)
        return body + _seal(self._hmac, body)

    def decode(self, data: bytes) -> Datagram | None:
        """Return the datagram in some bytes, None for what is none or does not carry the right seal."""
        if len(data) > MAX_BYTES:
            self.dropped["malformed"] += 1
            return None
        if self._hmac is not None:
            data, seal = data[:-SEAL_BYTES], data[-SEAL_BYTES:]
            if not hmac.compare_digest(_seal(self._hmac, data), seal):
                self.dropped["unauthenticated"] += 1
                return None
            data, number = data[:-NUMBER_BYTES], int.from_bytes(data[-NUMBER_BYTES:])
            if number % 2 == self._own_parity:
                self.dropped["unauthenticated"] += 1
                return None
            self.read = number
        try:
            datagram: Datagram = self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.dropped["malformed"] += 1
            return None
        return datagram


class Arrived:
    """Which numbers of one sender have come: each is taken once, in whatever order, while it is among the newest."""

    def __init__(self) -> None:
        self._newest = 0
        self._bits = 0  # the lowest is of the newest

    def is_new(self, number: int) -> bool:
        """Take a number, and say whether it is the first time; 0, without a key, always is."""
        if not number:
            return True
        ahead = number // 2 - self._newest  # a sender leaves out every other number
        if ahead > 0:
            self._bits = (self._bits << ahead | 1) & _NEWEST if ahead < _NEWEST_NUMBERS else 1
            self._newest += ahead
            return True
        bit = 1 << -ahead if -ahead < _NEWEST_NUMBERS else 0
        is_new = bool(bit) and not self._bits & bit
        self._bits |= bit
        return is_new


def _seal(keyed: hmac.HMAC, body: bytes) -> bytes:
    seal = keyed.copy()  # takes in the key once, so it costs half of what `hmac.digest` does
    seal.update(body)
    return seal.digest()[:SEAL_BYTES]
