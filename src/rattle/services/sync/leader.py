"""Leads those who have seats from phase to phase: who is told what, and what follows from their answers. Sans I/O."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from rattle.events import of_lockstep
from rattle.services.sync.agreement import Agreement
from rattle.services.sync.gathering import EpochStart
from rattle.services.sync.outbox import DatagramOutbox
from rattle.services.sync.seats import Address, Membership
from rattle.services.sync.tick_barrier import TickBarrier
from rattle.settings.services import SyncSection
from rattle.wire.lockstep import RUN_OVER, Bye, Done, Join, Phase, Ping, Pong, Ready, Seen, Tick, Welcome, Working

AboutSeat = Ready | Working | Done | Ping | Pong | Bye

#: How long a member may leave the last goodbye unanswered, in seconds.
GOODBYE_SECONDS = 2.0


class Completed(NamedTuple):
    """A phase that all have done, and what they said of their subjects as of the end of a tick."""

    tick: int  # of the hashes: in the phase act, the tick before
    phase: Phase
    hashes: dict[str, bytes]


class Leader:
    """The ticks and phases of a run, and the members who do them.

    `phases` and `round_trips` (seconds) grow until they are taken by whoever stores them.
    """

    def __init__(
        self, settings: SyncSection, session: int, out: DatagramOutbox, admit: Callable[[float], None]
    ) -> None:
        """Lead by `settings`; `admit` is called with the time whenever newcomers may get seats."""
        self.session, self.epoch = session, 0
        self.seats: dict[str, Membership] = {}
        self.rounds = TickBarrier(settings.frequency, settings.ticks)
        self.agreement = Agreement()
        self.phases: list[Completed] = []
        self.round_trips: list[float] = []
        self.over_at = inf
        self._ticks = settings.ticks
        self._heartbeat_ms = int(settings.heartbeat_seconds * 1000)
        self._out = out
        self._admit = admit
        self._numbers: dict[int, Membership] = {}
        # A number of an earlier life of the service is none of this one: what was recorded then is of no seat now.
        self._next_number = session >> 1
        self._hashes: dict[str, bytes] = {}  # of the phase in progress

    @property
    def has_begun(self) -> bool:
        """Whether there is an epoch, with ticks."""
        return self.epoch > 0

    @property
    def finished(self) -> bool:
        """Whether the last tick is over."""
        return self.over_at != inf

    def start(self, beginning: EpochStart) -> None:
        """Begin an epoch; `go_on` begins its first phase, when seats are taken."""
        self.session, self.epoch = beginning.session, beginning.epoch
        self.rounds.start(beginning)

    def end_at(self, now: float) -> None:
        """Note that the run is over."""
        self.over_at = now

    def seat_of(self, about: AboutSeat) -> Membership | None:
        """Return the seat that a datagram is about; None where that is of another epoch or life."""
        is_here = about.epoch == self.epoch and about.session == self.session
        return self._numbers.get(about.seat) if is_here else None

    def add_seat(self, join: Join, address: Address, now: float) -> Membership:
        """Give who has come a seat, and return it; an earlier life of the same name has none any more."""
        old = self.seats.get(join.name)
        if old is not None:
            del self._numbers[old.number]
        self._next_number += 1
        seat = Membership.of(join, self._next_number, address, now)
        self.seats[join.name] = self._numbers[seat.number] = seat
        self.rounds.lost.discard(join.name)
        return seat

    def remove(self, seat: Membership, now: float) -> None:
        """Go on without a member."""
        del self.seats[seat.name], self._numbers[seat.number]
        self.stop_waiting_for(seat, now)

    def tell(self, seat: Membership, now: float) -> None:
        """Send a member what it is to hear: the welcome, the goodbye, or the tick."""
        if self.finished and now - self.over_at >= GOODBYE_SECONDS:
            seat.told.rest()
            return
        if seat.told.attempt:
            seat.repeated += 1
            self._out.counts["repeated"] += 1
        attempt = seat.told.sent(now)
        self._out.wake_by(seat.told.due)
        session, epoch, number, rounds = self.session, self.epoch, seat.number, self.rounds
        if seat.invited:
            self._out.send(seat, Welcome(seat.life, session, epoch, number, attempt, self._heartbeat_ms, seat.answers))
        elif self.finished:
            self._out.send(seat, Bye(session, epoch, number, RUN_OVER))
        else:
            tick = Tick(session, epoch, number, rounds.tick, rounds.phase, attempt, rounds.flags, rounds.absent)
            self._out.send(seat, tick)

    def tell_afresh(self, seat: Membership, now: float) -> None:
        """Send a member something that it has not been told before."""
        seat.told.begin()
        self.tell(seat, now)

    def take_done(self, seat: Membership, done: Done, now: float) -> None:
        """Take a member's answer; one that is not waited for, such as a repeated one, is only acknowledged."""
        if not self.rounds.is_now(done.tick, done.phase) or seat not in self.rounds.waiting:
            self._out.counts["repeated"] += 1
            self._out.send(seat, Seen(self.session, self.epoch, seat.number, done.tick, done.phase))
            return
        seconds = seat.told.answered(done.attempt, now)
        if seconds is not None:
            self.round_trips.append(seconds)
        seat.done_tick, seat.idle = done.tick, done.idle
        if done.hashes:
            self._take_hashes(seat, done)
        self.stop_waiting_for(seat, now)

    def is_answered_within(self, seconds: float) -> bool:
        """Say whether one of those that are waited for usually answers so soon."""
        return any(0 < seat.round_trips.mean < seconds for seat in self.rounds.waiting)

    def stop_waiting_for(self, seat: Membership, now: float) -> None:
        """Go on if this member was the last that was waited for."""
        if seat in self.rounds.waiting:
            self.rounds.waiting.discard(seat)
            if not self.rounds.waiting and self._close_phase(now):
                self.go_on(now)

    def go_on(self, now: float) -> None:
        """Begin the phase that is next, if it may begin, and go through those that nobody takes part in."""
        while True:
            if self.rounds.is_open_to_arrivals(self.seats.values()):
                self._admit(now)
            if not self.rounds.may_begin(self.seats.values(), now):
                self._out.wake_by(self.rounds.due)
                return
            for seat in self.rounds.begin_phase(self.seats.values(), now):
                if not (seat.invited and seat.told.attempt):  # else the tick comes when it has taken its seat
                    self.tell_afresh(seat, now)
            if self.rounds.waiting or not self._close_phase(now):
                return

    def _take_hashes(self, seat: Membership, done: Done) -> None:
        seat.subjects = len(done.hashes)
        self._hashes.update(done.hashes)
        if not seat.is_comparable:
            return
        for found in self.agreement.report(self.rounds.hashed_tick, seat.name, done.hashes):
            self._out.say(of_lockstep.HistoriesDisagree(**found._asdict()))

    def _close_phase(self, now: float) -> bool:
        """Have the phase stored, and say whether another follows."""
        self.phases.append(Completed(self.rounds.hashed_tick, self.rounds.phase, self._hashes))
        self._hashes = {}
        if self.rounds.is_last:
            self._end(now)
            return False
        self.rounds.next_phase(self.seats.values())
        return True

    def _end(self, now: float) -> None:
        self.end_at(now)
        self._out.say(of_lockstep.LockstepFinished(ticks=self._ticks))
        for seat in self.seats.values():
            self.tell_afresh(seat, now)
