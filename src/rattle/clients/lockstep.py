"""A member of a lockstep run as a state machine (docs/sync-api.md): datagrams and times in, datagrams and work out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import inf
from typing import Literal, NamedTuple

import msgspec

from rattle.wire.lockstep import (
    ALL_IDLE,
    DROPPED,
    HASH_BYTES,
    LAST,
    MAX_BYTES,
    MAX_HASHES,
    MAX_NUMBER,
    Arrived,
    Bye,
    Codec,
    Datagram,
    Done,
    Gathering,
    Join,
    Phase,
    Ping,
    Pong,
    Ready,
    Role,
    SeatRefused,
    Seen,
    Tick,
    Unknown,
    Welcome,
    Working,
)
from rattle.wire.round_trips import Repeated, RoundTrips

#: Heartbeats without a word after which a member takes its service for started anew.
LOST_HEARTBEATS = 3
_FIRST_HEARTBEAT = 0.5
_MOST_GOODBYES = 5
#: Attempts to join, some seconds, after which people should know that nobody answers.
_TELLING_ATTEMPTS = 20
#: What of a datagram is left for hashes, in bytes: all else of it and its seal take less than the rest.
_ROOM_FOR_HASHES = MAX_BYTES - 100

State = Literal["new", "joining", "gathering", "seated", "leaving", "ended"]


class Work(NamedTuple):
    """What a member is told to do."""

    tick: int
    phase: Phase
    all_idle: bool  # every agent said in the tick before that it waits for something outside
    last: bool  # no tick follows
    absent: tuple[str, ...]  # agents that are played on without


class MemberAnswer(NamedTuple):
    """What it says when it has done so."""

    hashes: Mapping[str, bytes]  # by subject, 8 bytes each
    idle: bool = False


class _Place(NamedTuple):
    session: int = 0
    epoch: int = 0
    seat: int = 0


class _Finished(NamedTuple):
    """The last work that was done, and what is said of it as often as somebody asks."""

    tick: int
    phase: Phase | Literal[0]  # 0: none yet
    flags: int
    answer: MemberAnswer


class Member:
    """One life of a member. Every call returns the datagrams to send; `work` is what is to be done now.

    Work is done once: a repeated tick of work that is done gets the stored answer.
    """

    def __init__(self, name: str, role: Role, life: int, codec: Codec) -> None:
        self.name, self.role, self.life = name, role, life
        self.state: State = "new"
        self.reason = ""  # why it is in this state, for people
        self.place = _Place()
        self.counts: Counter[str] = Counter(late=0, repeated=0)
        self.work: Work | None = None  # to be done, until `take_work`
        self._codec = codec
        self._round_trips = RoundTrips()
        self._joining = Repeated(RoundTrips())
        self._answering = Repeated(self._round_trips)
        self._heartbeat = _FIRST_HEARTBEAT
        self.heard_at = -inf  # when the service was heard last
        self._ping_at = inf
        self._done = _Finished(0, 0, 0, MemberAnswer({}))
        self._nonce = 0  # that of the service
        self._before_joining = 0  # the newest number that was written before the first join in a row
        self._answered_join = 0  # that of the newest join that was answered, but by a welcome
        self._arrived = Arrived()  # at this seat
        self._is_known = False  # the service has taken this life
        self._is_whole = False  # no tick is missing before what was done
        self._doing: Tick | None = None
        self._is_stale = False  # what is done now is of a session that is over
        self._next: Tick | None = None  # came while other work was done
        self._out: list[bytes] = []

    @property
    def done_tick(self) -> int:
        """Return the tick of the last work that was done, 0 before the first."""
        return self._done.tick

    def begin(self, now: float) -> list[bytes]:
        """Begin to join."""
        self._join(now, "")
        return self._flush()

    def receive(self, data: bytes, now: float) -> list[bytes]:
        """Take a datagram."""
        datagram = self._codec.decode(data)
        if datagram is not None and self.state not in ("new", "ended"):
            self._take(datagram, now)
        return self._flush()

    def wake_at(self) -> float:
        """Return when `wake` is due, infinity when nothing is."""
        return min(self._joining.due, self._answering.due, self._ping_at)

    def wake(self, now: float) -> list[bytes]:
        """Repeat what has had no answer."""
        if now >= self._joining.due:
            if self.state == "leaving":
                self._say_bye(now)
            else:
                self._send_join(now)
        if now >= self._answering.due:
            self._send_done(now, 0)
        if now >= self._ping_at:
            self._beat(now)
        return self._flush()

    def take_work(self) -> Work | None:
        """Return what is to be done now, once; `finish` must follow before there is more."""
        work, self.work = self.work, None
        return work

    def finish(self, answer: MemberAnswer, now: float) -> list[bytes]:
        """Say that the work which was taken is done."""
        if self._doing is None:
            raise RuntimeError("there is no work in progress")
        doing, self._doing = self._doing, None
        if self._is_stale:
            self._is_stale = False
        else:
            self._is_whole = doing.tick == self._done.tick + 1 and (self._is_whole or doing.tick == 1)
            self._done = _Finished(doing.tick, doing.phase, doing.flags, _fitting(answer))
            if self.state == "seated" and self._next is None:
                self._answering.begin()
                self._send_done(now, doing.attempt)
        if self._next is not None:
            coming, self._next = self._next, None
            self._do(coming)
        return self._flush()

    def leave(self, now: float) -> list[bytes]:
        """Say goodbye; `state` is "ended" when that was heard, or was said often enough."""
        if self.state == "seated":
            self.state = "leaving"
            self._joining.begin()
            self._answering.rest()
            self._ping_at = inf
            self._say_bye(now)
        else:
            self._end("")
        return self._flush()

    def _take(self, datagram: Datagram, now: float) -> None:
        if self._take_about_joining(datagram, now) or self._take_at_the_seat(datagram, now):
            self.heard_at = now
        else:
            self.counts["late"] += 1

    def _take_about_joining(self, datagram: Datagram, now: float) -> bool:
        """Take a datagram to this life, or return False."""
        match datagram:
            case Welcome() | Gathering() | SeatRefused() if not self._is_answer(datagram):
                return False
            case Welcome() if self._is_newer(datagram):
                self._is_known = True
                self._take_seat(datagram, now)
            case Gathering() if self.state in ("joining", "gathering"):
                self._gather(datagram, now)
            case SeatRefused() if self.state in ("joining", "gathering"):
                self._take_refusal(datagram, now)
            case _:
                return False
        return True

    def _is_answer(self, datagram: Welcome | Gathering | SeatRefused) -> bool:
        """Whether a datagram is to this life, and to one of its present joins; a recorded one is not."""
        if datagram.life != self.life or not self._codec.is_sealed:
            return datagram.life == self.life
        if isinstance(datagram, Welcome):
            if self.state == "seated" and (datagram.session, datagram.epoch, datagram.seat) == self.place:
                return self._arrived.is_new(self._codec.read)
            return datagram.answers > self._before_joining
        is_first = datagram.answers > self._answered_join
        self._answered_join = max(datagram.answers, self._answered_join)
        return is_first

    def _gather(self, gathering: Gathering, now: float) -> None:
        """Wait for others, or join again at once with a nonce that is new to this member."""
        self.state, self.reason = "gathering", f"{gathering.present} of {gathering.wanted} members are there"
        if gathering.nonce != self._nonce:
            self._nonce = gathering.nonce
            self._send_join(now)
        else:
            self._is_known = True
            self._joining.due = now + self._heartbeat

    def _take_refusal(self, refused: SeatRefused, now: float) -> None:
        """Come back as the latest life where an earlier one has a higher number, for clocks may be set back.

        A life that the service took once is the earlier one itself: it ends, or two of one name would go on for ever.
        """
        if self._is_known or not self.life <= refused.later_life < MAX_NUMBER:
            self._end(refused.reason)
            return
        self.life = refused.later_life + 1
        self._join(now, "")

    def _take_at_the_seat(self, datagram: Datagram, now: float) -> bool:
        """Take a datagram to this seat, or return False."""
        if not isinstance(datagram, Tick | Seen | Ping | Pong | Unknown | Bye) or not self._is_here(datagram):
            return False
        if not self._arrived.is_new(self._codec.read):
            return False
        match datagram:
            case Tick():
                self._take_tick(datagram, now)
            case Seen():
                if (datagram.tick, datagram.phase) == self._done[:2]:
                    self._answered(now)
            case Ping():
                self._send(Pong(*self.place, datagram.attempt))
            case Unknown() if self.state == "leaving":  # it is gone already
                self._end("")
            case Unknown():
                self._join(now, "the Sync service has been started anew")
            case Bye():
                self._take_bye(datagram, now)
        return True

    def _is_here(self, datagram: Tick | Seen | Ping | Pong | Unknown | Bye) -> bool:
        at_home = self.state in ("seated", "leaving")
        return at_home and (datagram.session, datagram.epoch, datagram.seat) == self.place

    def _is_newer(self, welcome: Welcome) -> bool:
        """Whether a welcome is to the present seat or a later one of this session, or to any where there is none."""
        if self.state != "seated":  # a service that did not know all members may have used an epoch's number again
            return self.state != "leaving"
        here = welcome.session == self.place.session
        return here and (welcome.epoch, welcome.seat) >= (self.place.epoch, self.place.seat)

    def _take_seat(self, welcome: Welcome, now: float) -> None:
        if welcome.session != self.place.session:  # another run: ticks are numbered from 1 again
            self._done = _Finished(0, 0, 0, MemberAnswer({}))
            self._is_stale = self._doing is not None
        place = _Place(welcome.session, welcome.epoch, welcome.seat)
        if place != self.place:
            self._answering.rest()  # the service will ask
            self._arrived = Arrived()
            self._next = None
            if self._doing is not None:  # attempts are counted anew
                self._doing = msgspec.structs.replace(self._doing, attempt=0)
        self._arrived.is_new(self._codec.read)
        self.place = place
        self.state, self.reason = "seated", ""
        self._joining.rest()
        self._heartbeat = welcome.heartbeat_ms / 1000
        self._ping_at = now + self._heartbeat
        self._send(Ready(*self.place, welcome.attempt))

    def _take_tick(self, tick: Tick, now: float) -> None:
        wanted = tick.tick, int(tick.phase)
        if tick.phase != int(self.role) or self.state == "leaving":
            self.counts["late"] += 1
        elif wanted == self._done[:2]:
            self.counts["repeated"] += 1
            self._send_done(now, tick.attempt)
        elif wanted < self._done[:2]:
            self.counts["late"] += 1
        elif self._doing is None:
            self._answered(now)
            self._do(tick)
        elif wanted == (self._doing.tick, int(self._doing.phase)) and not self._is_stale:
            self.counts["repeated"] += 1
            self._doing = tick  # whose attempt is echoed
            self._send(Working(*self.place, tick.tick, tick.phase, tick.attempt))
        elif self._is_stale or wanted > (self._doing.tick, int(self._doing.phase)):
            if self._next is None or wanted >= (self._next.tick, int(self._next.phase)):
                self._next = tick
            self._send(Working(*self.place, tick.tick, tick.phase, tick.attempt))
        else:
            self.counts["late"] += 1

    def _answered(self, now: float) -> None:
        """Note that the answer has arrived; after a repetition nobody knows how long that took (Karn's algorithm)."""
        if self._answering.attempt == 1:
            self._answering.answered(1, now)
        elif self._answering.attempt:
            self._answering.answered(0, now)
            self._round_trips.back_off()
        self._answering.begin()

    def _do(self, tick: Tick) -> None:
        self._doing = tick
        all_idle, last = bool(tick.flags & ALL_IDLE), bool(tick.flags & LAST)
        self.work = Work(tick.tick, tick.phase, all_idle, last, tick.absent)

    def _send_done(self, now: float, attempt: int) -> None:
        done = self._done
        self._answering.sent(now)
        self._send(
            Done(*self.place, done.tick, done.phase or Phase.ACT, attempt, done.answer.idle, dict(done.answer.hashes))
        )

    def _beat(self, now: float) -> None:
        """Ask whether the service is there, if it has not been heard for a heartbeat."""
        # The very sums that timers are set to: differences would be rounded otherwise, and never be due.
        if now >= self.heard_at + LOST_HEARTBEATS * self._heartbeat:
            self._join(now, "the Sync service is not heard")
        elif now >= self.heard_at + self._heartbeat:
            self._send(Ping(*self.place, 1))
            self._ping_at = now + self._heartbeat
        else:
            self._ping_at = self.heard_at + self._heartbeat

    def _join(self, now: float, why: str) -> None:
        self.state, self.reason = "joining", why
        self._answering.rest()
        self._ping_at = inf
        self._joining.begin()
        self._before_joining = self._answered_join = self._codec.written
        self._send_join(now)

    def _send_join(self, now: float) -> None:
        if self.state == "gathering":
            self._joining.due = now + self._heartbeat
        elif self._joining.sent(now) == _TELLING_ATTEMPTS:
            self.reason = "no answer: does it run there, and is the token or sync.key_file the same"
        done = self._done
        self._send(
            Join(
                self.life,
                self.name,
                self.role,
                self.place.session,
                self.place.epoch,
                done.tick,
                done.phase,
                done.flags,
                done.answer.idle,
                self._is_whole,
                self._nonce,
            )
        )

    def _take_bye(self, bye: Bye, now: float) -> None:
        self._next = None
        if bye.reason == DROPPED and self.state == "seated":
            self._join(now, "the Sync service went on without this member")
            return
        if self.state == "seated":
            self._send(Bye(*self.place, ""))
        self._end(bye.reason)

    def _say_bye(self, now: float) -> None:
        if self._joining.attempt >= _MOST_GOODBYES:
            self._end("")
            return
        self._joining.sent(now)
        self._send(Bye(*self.place, ""))

    def _end(self, reason: str) -> None:
        self.state, self.reason = "ended", reason
        self.work = self._next = None
        self._joining.rest()
        self._answering.rest()
        self._ping_at = inf

    def _send(self, datagram: Datagram) -> None:
        self._out.append(self._codec.encode(datagram))

    def _flush(self) -> list[bytes]:
        out, self._out = self._out, []
        return out


def _fitting(answer: MemberAnswer) -> MemberAnswer:
    """Return an answer with as many hashes as a datagram has room for."""
    kept: dict[str, bytes] = {}
    room = _ROOM_FOR_HASHES
    for subject, history in answer.hashes.items():
        room -= len(subject) + HASH_BYTES + 5  # their lengths
        if room < 0 or len(kept) == MAX_HASHES:
            break
        kept[subject] = history
    return MemberAnswer(kept, answer.idle)
