"""Which datagrams of a Sync service are ticks; knows no socket and no clock."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from rattle.wire.pace import Beat, PaceCodec, Question

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
    """Says which datagrams of a Sync service are ticks, and counts them; `question` should be sent to their sender."""

    question: bytes | None = None
    unanswered = 0  # questions in a row

    def __init__(self) -> None:
        self.accepted = 0
        self.ignored = 0  # malformed, repeated or old
        self.refused = 0  # without the right seal
        self.replaced = 0  # senders, by one that sent before, or whose clock is behind theirs
        self._heard_at: float | None = None
        self._period = 0.0  # seconds between two datagrams

    def is_tick(self, data: bytes, now: float) -> bool:
        """Look at a datagram that came at `now`, in seconds of a clock that is never set, and count it."""
        raise NotImplementedError

    def _patience(self) -> float:
        """Return how long nothing must have come of the present sender before another takes its place, in seconds."""
        return max(_SECONDS, min(_PERIODS * self._period, _LONGEST_SECONDS))

    def _note(self, steps: int, now: float) -> None:
        """Count a tick that is so many sequences after the one before; 0 where that was another sender's."""
        if self._heard_at is not None and steps > 0:
            self._period = (now - self._heard_at) / steps
        self._heard_at = now
        self.accepted += 1


class SealedDatagrams(Datagrams):
    """Takes what has the right seal, is of a life that has repeated the nonce of this listener, and is newer.

    So a tick comes from a Sync service that has been heard since this listener was made: a life that ended before has
    not repeated its nonce, and what was recorded since has a sequence that was there. A life that has repeated the
    nonce need not do so again, for somebody may give it the questions of other listeners as those of this one. A beat
    for another listener then is the same tick as this one's own. Clocks do not matter. A service that is new is
    followed at once; one that was left for another, when that has fallen silent.
    """

    def __init__(self, key: bytes, nonce: str) -> None:
        """Listen; `nonce` is 16 hexadecimal digits that nobody has used before."""
        super().__init__()
        self._codec, self._nonce = PaceCodec(key), nonce
        self._newest: dict[str, int] = {}  # the highest sequence that came, by lives that have repeated the nonce
        self._life = ""

    def is_tick(self, data: bytes, now: float) -> bool:
        """Look at a datagram that came at `now`, in seconds of a clock that is never set, and count it."""
        self.question = None
        beat = self._codec.decode(data, Beat)
        if beat is None:
            self.refused += 1
        elif beat.nonce != self._nonce and beat.life not in self._newest:
            self.question = self._codec.encode(Question(sequence=beat.sequence, life=beat.life, nonce=self._nonce))
            self.unanswered += 1
            self.ignored += 1
        elif self._is_next(beat, now):
            return True
        else:
            self.ignored += 1
        return False

    def _is_next(self, beat: Beat, now: float) -> bool:
        self.unanswered = 0
        newest = self._newest.get(beat.life)
        if newest is not None and beat.sequence <= newest:
            return False
        self._newest[beat.life] = beat.sequence
        is_back = newest is not None and beat.life != self._life
        if is_back:
            if self._heard_at is not None and now - self._heard_at < self._patience():
                return False
            self.replaced += 1
        self._note(beat.sequence - newest if newest is not None and not is_back else 0, now)
        self._life = beat.life
        return True


class UnsealedDatagrams(Datagrams):
    """Takes each datagram that is newer than those before.

    Newer is what was sent later, by the sender's own clock, or has the next sequence; so a sender that starts again is
    followed, and copies and datagrams that were overtaken on their way are not. A sender whose clock was set back
    looks old forever. It is followed when nothing but its rising sequences has come for about a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sequence = 0
        self._sent = datetime.min.replace(tzinfo=UTC)
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
        patience = self._patience()
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
        self._note(sequence - self._sequence, now)
        self._sequence, self._sent, self._rise = sequence, sent, None
        self._taken[sequence, sent] = None
        if len(self._taken) > _REMEMBERED:
            self._taken.popitem(last=False)
