"""The leading side of lockstep (docs/sync-api.md): who takes part, and what comes from them. Sans I/O."""

from __future__ import annotations

from math import inf
from typing import Any

from rattle.events import of_lockstep
from rattle.services.sync.failure_detector import LONGEST_REMINDER, FailureDetector
from rattle.services.sync.gathering import MOST_MEMBERS, PendingMembers, a_later_life, beginning, was_idle
from rattle.services.sync.leader import AboutSeat, Leader
from rattle.services.sync.outbox import DatagramOutbox
from rattle.services.sync.seats import Address, Membership
from rattle.services.sync.standing import describe
from rattle.settings.services import SyncSection
from rattle.wire.lockstep import (
    RUN_OVER,
    Bye,
    Codec,
    Done,
    Gathering,
    Join,
    Ping,
    Pong,
    Ready,
    SeatRefused,
    Unknown,
    Working,
)

#: Silences after which somebody who came before the beginning, and would ask again every heartbeat, is forgotten.
_FORGOTTEN_AFTER = 5


class Coordinator:
    """One life of a lockstep run's Sync service. Calls return the datagrams to send, with their addresses.

    It says who takes part; the leader leads those who do.
    """

    def __init__(self, settings: SyncSection, codec: Codec, session: int) -> None:
        """Lead by `settings`; `session` names the run if no member remembers one, and is no other life's."""
        self.settings = settings
        self.codec = codec
        self.out = DatagramOutbox(codec.encode)
        self.arrivals = PendingMembers(settings.participants, settings.members)
        self.leader = Leader(settings, session, self.out, self._seat_arrivals)
        self._silence = FailureDetector(settings, self.leader, self.out)
        self._heartbeat = settings.heartbeat_seconds
        self._nonce = session if codec.is_sealed else 0
        self._joined: dict[str, tuple[int, int]] = {}  # by name: its latest life, and the number of that one's join
        self._said_seals = False
        self._missed_since = 0.0
        self._remind_at = inf  # of those who have not come

    def status(self, now: float) -> dict[str, Any]:
        """Return how things stand, ready for JSON."""
        return describe(self.leader, self.arrivals, {**self.out.counts, **self.codec.dropped}, now)

    def begin(self, now: float, *, is_over: bool = False) -> None:
        """Begin to wait for members, or to say that the run is over."""
        if is_over:
            self.leader.end_at(now)
        self._missed_since, self._remind_at = now, now + self.settings.silence_seconds
        self.out.wake_by(now + self._heartbeat)

    def receive(self, data: bytes, address: Address, now: float) -> list[tuple[Address, bytes]]:
        """Take a datagram."""
        self.out.counts["received"] += 1
        datagram = self.codec.decode(data)
        match datagram:
            case None:
                self._look_at_seals()
            case Join():
                if self._is_fresh(datagram, address):
                    self._take_join(datagram, address, now)
            case Ready() | Working() | Done() | Ping() | Pong() | Bye():
                seat = self.leader.seat_of(datagram)
                if seat is not None and not seat.arrived.is_new(self.codec.read):
                    self.out.counts["replayed"] += 1  # an answer to it could be carried to the member from here
                elif seat is None or seat.address != address:
                    self._refuse_late(datagram, address)
                else:
                    self._silence.hear(seat, now)
                    self._take_as_seated(seat, datagram, now)
                    self._take(seat, datagram, now)
            case _:  # what only this side says
                self.out.counts["late"] += 1
        return self.out.take()

    def wake_at(self) -> float:
        """Return when `wake` is due at the latest."""
        return self.out.wake_at

    def wake(self, now: float) -> list[tuple[Address, bytes]]:
        """Do what is due: repeat datagrams, look who is silent, begin a tick that had to wait."""
        leader = self.leader
        late = now - self.out.wake_at
        if late < 0:
            return []
        if late > self._heartbeat:
            self._silence.excuse(late, now)
        self.out.wake_at = now + self._heartbeat
        for seat in list(leader.seats.values()):
            if now >= seat.told.due:
                leader.tell(seat, now)
            self.out.wake_by(seat.told.due)
            self._silence.look_after(seat, now)
        if not leader.has_begun and not leader.finished:
            self._look_after_arrivals(now)
        if leader.rounds.is_due(now):
            leader.go_on(now)
        self.out.wake_by(leader.rounds.due)
        return self.out.take()

    def _take(self, seat: Membership, datagram: AboutSeat, now: float) -> None:
        leader = self.leader
        match datagram:
            case Done():
                leader.take_done(seat, datagram, now)
            case Ready():
                pass  # as anything that comes from a seat
            case Working():
                if seat in leader.rounds.waiting and leader.rounds.is_now(datagram.tick, datagram.phase):
                    seat.told.rest()
            case Ping():
                if leader.finished:
                    self.out.send(seat, Bye(leader.session, leader.epoch, seat.number, RUN_OVER))
                else:
                    self.out.send(seat, Pong(leader.session, leader.epoch, seat.number, datagram.attempt))
            case Pong():
                pass
            case Bye():
                self._take_bye(seat, now)

    def _take_join(self, join: Join, address: Address, now: float) -> None:
        leader = self.leader
        seat = leader.seats.get(join.name)
        if leader.finished:
            self._refuse(join, address, RUN_OVER)
        elif seat is None:
            self._arrive(join, address, now)
        elif join.life < seat.life:
            self._refuse(join, address, a_later_life(join.name), seat.life)
        elif join.role != seat.role:
            taken = f"'{join.name}' is an {seat.role.name.lower()} in this run: choose another name (sync.name)"
            self._refuse(join, address, taken)
        elif join.life > seat.life:
            self._note(join)
            self._replace(seat, join, address, now)
        else:
            self._note(join)
            seat.address, seat.invited, seat.answers = address, True, self.codec.read
            leader.tell_afresh(seat, now)
            self._silence.hear(seat, now)

    def _is_fresh(self, join: Join, address: Address) -> bool:
        """Whether a join is no recorded one: it repeats the nonce of this life, and is later than all of its name."""
        if not self._nonce:
            return True
        if join.nonce != self._nonce:
            self._gather(join, address)
            return False
        life, number = self._joined.get(join.name, (0, 0))
        if join.life < life:
            self._refuse(join, address, a_later_life(join.name), life)
            return False
        if join.life == life and self.codec.read <= number:
            self.out.counts["replayed"] += 1
            return False
        return True

    def _note(self, join: Join) -> None:
        if self._nonce:  # else strangers could fill it with names
            self._joined[join.name] = join.life, self.codec.read

    def _gather(self, join: Join, address: Address) -> None:
        present, wanted = len(self.arrivals.lives), self.arrivals.count
        self.out.send_to(address, Gathering(join.life, present, wanted, self._nonce, self.codec.read))

    def _refuse(self, join: Join, address: Address, reason: str, later_life: int = 0) -> None:
        self.out.send_to(address, SeatRefused(join.life, reason, later_life, self.codec.read))

    def _arrive(self, join: Join, address: Address, now: float) -> None:
        leader = self.leader
        known = join.name in self.arrivals.lives
        later = self.arrivals.later_life(join)
        if later:
            self._refuse(join, address, a_later_life(join.name), later)
            return
        is_full = not known and len(leader.seats) + len(self.arrivals.lives) >= MOST_MEMBERS
        reason = (
            f"there is no room: a lockstep run has up to {MOST_MEMBERS} members"
            if is_full
            else self.arrivals.add(join, address, now)
        )
        if reason is not None:
            self._refuse(join, address, reason)
            return
        self._note(join)
        if not known:
            missing = None if leader.has_begun or self.arrivals.are_complete else self.arrivals.missing()
            self.out.say(of_lockstep.MemberCame(member=join.name, missing=missing))
        if not leader.has_begun and self.arrivals.are_complete:
            self._begin_epoch(now)
        elif leader.has_begun and leader.rounds.stands_still:
            leader.go_on(now)
        if join.name not in leader.seats:
            self._gather(join, address)

    def _begin_epoch(self, now: float) -> None:
        leader = self.leader
        joins = [join for join, _ in self.arrivals.lives.values()]
        start = beginning(joins, leader.session)
        leader.start(start)
        self._seat_arrivals(now)
        for join in joins:
            seat = leader.seats[join.name]
            seat.idle = was_idle(join)
            knows_all = join.session == start.session and join.whole and join.done_tick >= start.tick - 1
            seat.is_comparable = start.tick == 1 or knows_all
        names = ", ".join(leader.seats)
        self.out.say(of_lockstep.EpochBegan(epoch=leader.epoch, tick=start.tick, members=names))
        leader.go_on(now)

    def _seat_arrivals(self, now: float) -> None:
        """Give everybody a seat who has come; in a fixed order, so that numbers do not depend on who was first."""
        leader = self.leader
        for name in sorted(self.arrivals.lives):
            join, address = self.arrivals.lives.pop(name)
            seat = leader.add_seat(join, address, now)
            seat.is_comparable, seat.answers = False, self._joined.get(name, (0, 0))[1]
            if join.session == leader.session and leader.rounds.leave_out(join):
                self.out.say(of_lockstep.MemberAhead(member=name, tick=leader.rounds.tick))
                for other in leader.seats.values():  # for them ticks are left out
                    other.is_comparable = False
            leader.tell(seat, now)

    def _replace(self, old: Membership, join: Join, address: Address, now: float) -> None:
        """Give a new life of a member its place, also where it is waited for in the phase in progress."""
        self.out.say(of_lockstep.MemberReplaced(member=join.name))
        seat = self.leader.add_seat(join, address, now)
        seat.is_comparable, seat.answers = False, self.codec.read
        self.leader.rounds.replace(old, seat)
        self.leader.tell(seat, now)

    def _take_as_seated(self, seat: Membership, datagram: AboutSeat, now: float) -> None:
        """Note that a member has taken its seat, as its numbers show, whatever has become of its `ready`."""
        leader = self.leader
        if not seat.invited:
            return
        if isinstance(datagram, Ready):
            seat.told.answered(datagram.attempt, now)
        seat.invited = False
        seat.told.rest()
        seat.told.begin()
        if leader.finished or seat in leader.rounds.waiting:
            leader.tell(seat, now)
        elif leader.rounds.stands_still:
            leader.go_on(now)

    def _take_bye(self, seat: Membership, now: float) -> None:
        """Let a member go: it knows what it does, and is not waited for."""
        leader = self.leader
        self.out.send(seat, Bye(leader.session, leader.epoch, seat.number, ""))
        if leader.finished:
            seat.told.rest()
        else:
            self.out.say(of_lockstep.MemberLeft(member=seat.name))
            leader.remove(seat, now)

    def _look_after_arrivals(self, now: float) -> None:
        """Forget who has gone before the beginning, and say who is still missing."""
        for name in self.arrivals.forget_silent(now - _FORGOTTEN_AFTER * self.settings.silence_seconds):
            self.out.say(of_lockstep.MemberGone(member=name))
        if now >= self._remind_at:
            self._remind_of_missing(now)

    def _remind_of_missing(self, now: float) -> None:
        waited = now - self._missed_since
        self._remind_at = now + min(LONGEST_REMINDER, waited)
        present = tuple(sorted(self.arrivals.lives))
        self.out.say(of_lockstep.MembersMissing(missing=self.arrivals.missing(), seconds=waited, present=present))

    def _refuse_late(self, datagram: AboutSeat, address: Address) -> None:
        """Drop what is of another epoch or seat, and say so to whoever may wait for an answer."""
        self.out.counts["late"] += 1
        if not isinstance(datagram, Bye):
            self.out.counts["unknown"] += 1
            self.out.send_to(address, Unknown(datagram.session, datagram.epoch, datagram.seat))

    def _look_at_seals(self) -> None:
        """Say once that somebody has another key, or none."""
        if self.codec.dropped["unauthenticated"] == 1 and not self._said_seals:
            self._said_seals = True
            self.out.say(of_lockstep.BadSeals())
