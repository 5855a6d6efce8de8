"""Which datagrams of a Sync service are ticks; knows no socket and no clock."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

#: A sender is replaced by one whose clock is behind after so many seconds, and so many periods of its own, without
#: a tick of it; a period is taken to be no longer than that.
_SECONDS, _PERIODS, _LONGEST_SECONDS = 1.0, 3, 60.0
#: So many datagrams of the later sender have to come in rising order.
_RISING = 3
#: The newest ticks that are told from copies of them, whatever came between.
_REMEMBERED = 4096


class _TickDatagram(msgspec.Struct):
    sequence: int
    timestamp: datetime


@dataclass
class _Rise:
    """Old datagrams whose sequences rise: those of a sender whose clock was set back, or of a second one."""

    since: float
    rose_at: float
    sequence: int
    count: int = 1


class Datagrams:
    """Says which datagrams of a Sync service are ticks: each newer one.

    Newer is what was sent later, by the sender's own clock, or has the next sequence; so a sender that starts anew is
    followed, and copies and datagrams that were overtaken on their way are not. A sender whose clock was set back
    looks old for ever. It is followed when nothing but its rising sequences has come for about a second.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.ignored = 0  # malformed, repeated or old
        self.replaced = 0  # senders, by one whose clock is behind theirs
        self._sequence = 0
        self._sent = datetime.min.replace(tzinfo=UTC)
        self._heard_at: float | None = None
        self._period = 0.0  # seconds between two datagrams
        self._taken: OrderedDict[tuple[int, datetime], None] = OrderedDict()  # the newest ticks, oldest first
        self._rise: _Rise | None = None
        self._decode = msgspec.json.Decoder(_TickDatagram).decode

    def is_tick(self, data: bytes, now: float) -> bool:
        """Look at a datagram that came at `now`, in seconds of a clock that is never set, and count it."""
        try:
            datagram = self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.ignored += 1
            return False
        sequence, sent = datagram.sequence, datagram.timestamp
        if sent.tzinfo is None:
            sent = sent.replace(tzinfo=UTC)
        if not 1 <= sequence < 2**63 or (sequence, sent) in self._taken or not self._is_newer(sequence, sent, now):
            self.ignored += 1
            return False
        self._take(sequence, sent, now)
        return True

    def _is_newer(self, sequence: int, sent: datetime, now: float) -> bool:
        if sequence == self._sequence + 1:  # also when the sender's clock was set back between the two
            return True
        if sequence != self._sequence and (sent, sequence) > (self._sent, self._sequence):
            return True
        return self._is_new_sender(sequence, now)

    def _is_new_sender(self, sequence: int, now: float) -> bool:
        """Take an old datagram, and say whether its sender takes the place of the one before."""
        patience = max(_SECONDS, min(_PERIODS * self._period, _LONGEST_SECONDS))
        rise = self._rise
        if rise is None or (sequence <= rise.sequence and now - rise.rose_at > patience):
            self._rise = _Rise(now, now, sequence)
            return False
        if sequence <= rise.sequence:
            return False
        rise.sequence, rise.rose_at, rise.count = sequence, now, rise.count + 1
        if rise.count < _RISING or now - rise.since < patience:
            return False
        self.replaced += 1
        return True

    def _take(self, sequence: int, sent: datetime, now: float) -> None:
        if self._heard_at is not None and sequence > self._sequence:
            self._period = (now - self._heard_at) / (sequence - self._sequence)
        self._sequence, self._sent, self._heard_at, self._rise = sequence, sent, now, None
        self._taken[sequence, sent] = None
        if len(self._taken) > _REMEMBERED:
            self._taken.popitem(last=False)
        self.accepted += 1
