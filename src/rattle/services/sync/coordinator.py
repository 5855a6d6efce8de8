"""Leads members through ticks and phases (docs/sync-api.md): datagrams and times in, datagrams out. Sans I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import inf
from typing import Any, Literal, NamedTuple

from rattle.services.sync.agreement import Agreement
from rattle.services.sync.gathering import MOST_MEMBERS, Arrivals, beginning, was_idle
from rattle.services.sync.rounds import Rounds
from rattle.services.sync.seats import Address, Seat
from rattle.services.sync.standing import describe
from rattle.trainer.settings import SyncSection
from rattle.wire.lockstep import (
    RUN_OVER,
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
    Refused,
    Role,
    Seen,
    Tick,
    Unknown,
    Welcome,
    Working,
)

#: How long a member may leave the last goodbye unanswered, in seconds.
GOODBYE_SECONDS = 2.0
_DROPPED = "dropped"
#: Silences after which somebody who came before the beginning, and asks every half second, is forgotten.
_FORGOTTEN_AFTER = 5
#: The longest time between two reminders of who is waited for, in seconds.
_LONGEST_REMINDER = 60.0

AboutSeat = Ready | Working | Done | Ping | Pong | Bye


class Event(NamedTuple):
    """Something that people should know of."""

    level: Literal["INFO", "WARNING", "ERROR"]
    text: str
    fields: Mapping[str, Any]


class Completed(NamedTuple):
    """A phase that all have done, and what they said of their subjects as of the end of a tick."""

    tick: int  # of the hashes: in the phase act, the tick before
    phase: Phase
    hashes: dict[str, bytes]


class Coordinator:
    """One life of a lockstep run's Sync service. Calls return the datagrams to send, with their addresses.

    `events` and `phases` grow until they are taken by whoever shows and stores them.
    """

    def __init__(self, settings: SyncSection, codec: Codec, session: int) -> None:
        """Lead by `settings`; `session` names the run if no member remembers one."""
        self.settings = settings
        self.codec = codec
        self.session, self.epoch = session, 0
        self.seats: dict[str, Seat] = {}
        self.arrivals = Arrivals(settings.participants, settings.members)
        self.rounds = Rounds(settings.frequency, settings.ticks)
        self.agreement = Agreement()
        self.counts: Counter[str] = Counter(received=0, sent=0, repeated=0, late=0, unknown=0)
        self.events: list[Event] = []
        self.phases: list[Completed] = []
        self.round_trips: list[float] = []
        self.over_at = inf
        self._numbers: dict[int, Seat] = {}
        self._next_number = 0
        self._hashes: dict[str, bytes] = {}  # of the phase in progress
        self._wake_at = inf
        self._heartbeat = settings.heartbeat_seconds
        self._said_seals = False
        self._missed_since = 0.0
        self._remind_at = inf  # of those who have not come
        self._out: list[tuple[Address, bytes]] = []

    @property
    def has_begun(self) -> bool:
        """Whether there is an epoch, with ticks."""
        return self.epoch > 0

    @property
    def finished(self) -> bool:
        """Whether the last tick is over."""
        return self.over_at != inf

    def status(self, now: float) -> dict[str, Any]:
        """Return how things stand, ready for JSON."""
        return describe(self, now)

    def begin(self, now: float, *, is_over: bool = False) -> None:
        """Begin to wait for members, or to say that the run is over."""
        if is_over:
            self.over_at = now
        self._missed_since, self._remind_at = now, now + self.settings.silence_seconds
        self._wake_by(now + self._heartbeat)

    def receive(self, data: bytes, address: Address, now: float) -> list[tuple[Address, bytes]]:
        """Take a datagram."""
        self.counts["received"] += 1
        datagram = self.codec.decode(data)
        match datagram:
            case None:
                self._look_at_seals()
            case Join():
                self._take_join(datagram, address, now)
            case Ready() | Working() | Done() | Ping() | Pong() | Bye():
                seat = self._numbers.get(datagram.seat)
                if (
                    seat is None
                    or datagram.epoch != self.epoch
                    or datagram.session != self.session
                    or seat.address != address
                ):
                    self._refuse_late(datagram, address)
                else:
                    self._hear(seat, now)
                    self._take_as_seated(seat, datagram, now)
                    self._take(seat, datagram, now)
            case _:  # what only this side says
                self.counts["late"] += 1
        return self._flush()

    def wake_at(self) -> float:
        """Return when `wake` is due at the latest."""
        return self._wake_at

    def wake(self, now: float) -> list[tuple[Address, bytes]]:
        """Do what is due: repeat datagrams, look who is silent, begin a tick that had to wait."""
        if now < self._wake_at:
            return []
        self._wake_at = now + self._heartbeat
        for seat in list(self.seats.values()):
            if now >= seat.told.due:
                self._tell(seat, now)
            self._wake_by(seat.told.due)
            self._look_after(seat, now)
        if not self.has_begun and not self.finished:
            self._look_after_arrivals(now)
        if self.rounds.is_due(now):
            self._go_on(now)
        self._wake_by(self.rounds.due)
        return self._flush()

    def _take(self, seat: Seat, datagram: AboutSeat, now: float) -> None:
        match datagram:
            case Done():
                self._take_done(seat, datagram, now)
            case Ready():
                pass  # as anything that comes from a seat
            case Working():
                if seat in self.rounds.waiting and self.rounds.is_now(datagram.tick, datagram.phase):
                    seat.told.rest()
            case Ping():
                if self.finished:
                    self._send(seat, Bye(self.session, self.epoch, seat.number, RUN_OVER))
                else:
                    self._send(seat, Pong(self.session, self.epoch, seat.number, datagram.attempt))
            case Pong():
                pass
            case Bye():
                self._take_bye(seat, now)

    def _take_done(self, seat: Seat, done: Done, now: float) -> None:
        if not self.rounds.is_now(done.tick, done.phase) or seat not in self.rounds.waiting:
            self.counts["repeated"] += 1
            self._send(seat, Seen(self.session, self.epoch, seat.number, done.tick, done.phase))
            return
        self._note_round_trip(seat, done, now)
        seat.done_tick, seat.idle = done.tick, done.idle
        if done.hashes:
            self._take_hashes(seat, done)
        self.rounds.waiting.discard(seat)
        if not self.rounds.waiting:
            self._complete(now)

    def _note_round_trip(self, seat: Seat, done: Done, now: float) -> None:
        seconds = seat.told.answered(done.attempt, now)
        if seconds is not None:
            self.round_trips.append(seconds)

    def _take_hashes(self, seat: Seat, done: Done) -> None:
        seat.subjects = len(done.hashes)
        self._hashes.update(done.hashes)
        if not seat.is_comparable:
            return
        for found in self.agreement.report(self.rounds.hashed_tick, seat.name, done.hashes):
            self._say(
                "ERROR",
                f"{found.members[0]} and {found.members[1]} disagree about {found.subject} from tick {found.tick} on",
                **found._asdict(),
            )

    def _complete(self, now: float) -> None:
        """Go on after a phase that all have done."""
        if self._close_phase(now):
            self._go_on(now)

    def _close_phase(self, now: float) -> bool:
        """Have the phase stored, and say whether another follows."""
        self.phases.append(Completed(self.rounds.hashed_tick, self.rounds.phase, self._hashes))
        self._hashes = {}
        if self.rounds.is_last:
            self._end(now)
            return False
        self.rounds.next_phase(self.seats.values())
        return True

    def _go_on(self, now: float) -> None:
        """Begin the phase that is next, if it may begin, and go through those that nobody takes part in."""
        while True:
            if self.rounds.is_open_to_arrivals(self.seats.values()):
                self._seat_arrivals(now)
            if not self.rounds.may_begin(self.seats.values(), now):
                self._wake_by(self.rounds.due)
                return
            for seat in self.rounds.begin_phase(self.seats.values(), now):
                seat.told.begin()
                self._tell(seat, now)
            if self.rounds.waiting or not self._close_phase(now):
                return

    def _end(self, now: float) -> None:
        self.over_at = now
        self._say("INFO", f"the run is over after {self.settings.ticks} ticks", ticks=self.settings.ticks)
        for seat in self.seats.values():
            seat.told.begin()
            self._tell(seat, now)

    def _take_join(self, join: Join, address: Address, now: float) -> None:
        seat = self.seats.get(join.name)
        if self.finished:
            self._send_to(address, Refused(join.life, RUN_OVER))
        elif seat is None:
            self._arrive(join, address, now)
        elif join.life < seat.life:
            reason = f"a later life of '{join.name}' has come: give every member a name of its own (sync.name)"
            self._send_to(address, Refused(join.life, reason))
        elif join.role != seat.role:
            taken = f"'{join.name}' is an {seat.role.name.lower()} in this run: choose another name (sync.name)"
            self._send_to(address, Refused(join.life, taken))
        elif join.life > seat.life:
            self._replace(seat, join, address, now)
        else:
            self._hear(seat, now)
            seat.address, seat.invited = address, True
            seat.told.begin()
            self._tell(seat, now)

    def _arrive(self, join: Join, address: Address, now: float) -> None:
        known = join.name in self.arrivals.lives
        is_full = not known and len(self.seats) + len(self.arrivals.lives) >= MOST_MEMBERS
        reason = "there is no room" if is_full else self.arrivals.add(join, address, now)
        if reason is not None:
            self._send_to(address, Refused(join.life, reason))
            return
        if not known:
            still = "" if self.has_begun or self.arrivals.are_complete else f"; waiting for {self.arrivals.missing()}"
            self._say("INFO", f"{join.name} has come{still}", member=join.name)
        if not self.has_begun and self.arrivals.are_complete:
            self._begin_epoch(now)
        elif self.has_begun and self.rounds.stands_still:
            self._go_on(now)
        if join.name not in self.seats:
            self._send_to(address, Gathering(join.life, len(self.arrivals.lives), self.arrivals.count))

    def _begin_epoch(self, now: float) -> None:
        joins = [join for join, _ in self.arrivals.lives.values()]
        start = beginning(joins, self.session)
        self.session, self.epoch = start.session, start.epoch
        self.rounds.start(start)
        self._seat_arrivals(now)
        for join in joins:
            seat = self.seats[join.name]
            seat.idle = was_idle(join)
            seat.is_comparable = join.session == start.session or start.tick == 1
        names = ", ".join(self.seats)
        self._say("INFO", f"epoch {self.epoch} begins with tick {start.tick}: {names}", epoch=self.epoch)
        self._go_on(now)

    def _seat_arrivals(self, now: float) -> None:
        """Give everybody a seat who has come; in a fixed order, so that numbers do not depend on who was first."""
        for name in sorted(self.arrivals.lives):
            join, address = self.arrivals.lives.pop(name)
            seat = self._add_seat(join, address, now)
            seat.is_comparable = False
            if join.session == self.session and self.rounds.leave_out(join):
                text = f"{name} has done more than those who were there: the run goes on with tick {self.rounds.tick}"
                self._say("WARNING", text, member=name)
            self._tell(seat, now)

    def _add_seat(self, join: Join, address: Address, now: float) -> Seat:
        self._next_number += 1
        seat = Seat.of(join, self._next_number, address, now)
        self.seats[join.name] = self._numbers[seat.number] = seat
        self.rounds.lost.discard(join.name)
        return seat

    def _replace(self, old: Seat, join: Join, address: Address, now: float) -> None:
        """Give a new life of a member its place, in the phase in progress too."""
        self._say("WARNING", f"{join.name} has been started again, and takes its place", member=join.name)
        del self._numbers[old.number]
        seat = self._add_seat(join, address, now)
        seat.is_comparable = False
        if old in self.rounds.waiting or (old.absent and self.rounds.takes_part(seat)):
            self.rounds.waiting.discard(old)
            self.rounds.waiting.add(seat)
        self._tell(seat, now)

    def _take_as_seated(self, seat: Seat, datagram: AboutSeat, now: float) -> None:
        """Note that a member has taken its seat, as its numbers show, whatever has become of its `ready`."""
        if not seat.invited:
            return
        if isinstance(datagram, Ready):
            seat.told.answered(datagram.attempt, now)
        seat.invited = False
        seat.told.rest()
        seat.told.begin()
        if self.finished or seat in self.rounds.waiting:
            self._tell(seat, now)
        elif self.rounds.stands_still:
            self._go_on(now)

    def _take_bye(self, seat: Seat, now: float) -> None:
        """Let a member go: it knows what it does, and is not waited for."""
        self._send(seat, Bye(self.session, self.epoch, seat.number, ""))
        if self.finished:
            seat.told.rest()
        else:
            self._say("WARNING", f"{seat.name} leaves", member=seat.name)
            self._remove(seat, now)

    def _remove(self, seat: Seat, now: float) -> None:
        del self.seats[seat.name], self._numbers[seat.number]
        self._stop_waiting_for(seat, now)

    def _stop_waiting_for(self, seat: Seat, now: float) -> None:
        if seat in self.rounds.waiting:
            self.rounds.waiting.discard(seat)
            if not self.rounds.waiting:
                self._complete(now)

    def _hear(self, seat: Seat, now: float) -> None:
        """Note that a member is there."""
        seat.heard_at = now
        if seat.suspected_at != inf:
            silent = now - seat.suspected_at + self.settings.silence_seconds
            self._say("WARNING", f"{seat.name} is heard again, after {silent:.1f} s", member=seat.name)
            seat.suspected_at = seat.remind_at = inf
            seat.absent = False  # from the next tick on
            if self.rounds.stands_still:
                self._go_on(now)

    def _look_after(self, seat: Seat, now: float) -> None:
        """Suspect who is silent, and ask who has not been heard for a heartbeat."""
        silent = now - seat.heard_at
        if self.finished:
            return
        if silent >= self.settings.silence_seconds and seat.suspected_at == inf:
            self._suspect(seat, now)
        elif now >= seat.remind_at:
            self._remind(seat, now, silent)
        if seat.name in self.seats and silent >= self._heartbeat and now - seat.pinged_at >= self._heartbeat:
            seat.pinged_at = now
            self._send(seat, Ping(self.session, self.epoch, seat.number, 1))

    def _suspect(self, seat: Seat, now: float) -> None:
        seat.suspected_at = now
        what = {"wait": "it is waited for", "drop": "it loses its seat", "forward": "it is played on without"}
        policy = self.settings.silent if seat.role == Role.AGENT else "wait"  # without a world nobody goes on
        text = f"{seat.name} has not been heard for {self.settings.silence_seconds:g} s: {what[policy]}"
        self._say("WARNING", text, member=seat.name, tick=self.rounds.tick)
        if policy == "drop":
            self.rounds.lost.add(seat.name)
            self._send(seat, Bye(self.session, self.epoch, seat.number, _DROPPED))
            self._remove(seat, now)
        elif policy == "forward":
            seat.absent, seat.is_comparable = True, False
            seat.told.rest()
            self._stop_waiting_for(seat, now)
        else:
            seat.remind_at = now + self.settings.silence_seconds

    def _remind(self, seat: Seat, now: float, silent: float) -> None:
        seat.remind_at = now + min(_LONGEST_REMINDER, silent)
        self._say("WARNING", f"{seat.name} is still waited for, after {silent:.0f} s", member=seat.name)

    def _look_after_arrivals(self, now: float) -> None:
        """Forget who has gone before the beginning, and say who is still missing."""
        for name in self.arrivals.forget_silent(now - _FORGOTTEN_AFTER * self.settings.silence_seconds):
            self._say("WARNING", f"{name} has gone again", member=name)
        if now >= self._remind_at:
            self._remind_of_missing(now)

    def _remind_of_missing(self, now: float) -> None:
        waited = now - self._missed_since
        self._remind_at = now + min(_LONGEST_REMINDER, waited)
        text = f"waiting for {self.arrivals.missing()} to join, for {waited:.0f} s"
        self._say("WARNING", text, present=sorted(self.arrivals.lives))

    def _tell(self, seat: Seat, now: float) -> None:
        """Send a member what it is to hear: the welcome, the goodbye, or the tick."""
        if self.finished and now - self.over_at >= GOODBYE_SECONDS:
            seat.told.rest()
            return
        if seat.told.attempt:
            seat.repeated += 1
            self.counts["repeated"] += 1
        attempt = seat.told.sent(now)
        self._wake_by(seat.told.due)
        if seat.invited:
            heartbeat = int(self._heartbeat * 1000)
            self._send(seat, Welcome(seat.life, self.session, self.epoch, seat.number, attempt, heartbeat))
        elif self.finished:
            self._send(seat, Bye(self.session, self.epoch, seat.number, RUN_OVER))
        else:
            rounds = self.rounds
            tick = Tick(
                self.session, self.epoch, seat.number, rounds.tick, rounds.phase, attempt, rounds.flags, rounds.absent
            )
            self._send(seat, tick)

    def _refuse_late(self, datagram: AboutSeat, address: Address) -> None:
        """Drop what is of another epoch or seat, and say so to whoever may wait for an answer."""
        self.counts["late"] += 1
        if not isinstance(datagram, Bye):
            self.counts["unknown"] += 1
            self._send_to(address, Unknown(datagram.session, datagram.epoch, datagram.seat))

    def _look_at_seals(self) -> None:
        """Say once that somebody has another key, or none."""
        if self.codec.dropped["unauthenticated"] == 1 and not self._said_seals:
            self._said_seals = True
            self._say("WARNING", "datagrams without the right seal are dropped: is sync.key_file the same everywhere?")

    def _wake_by(self, at: float) -> None:
        self._wake_at = min(self._wake_at, at)

    def _say(self, level: Literal["INFO", "WARNING", "ERROR"], text: str, **fields: Any) -> None:
        self.events.append(Event(level, text, fields))

    def _send(self, seat: Seat, datagram: Datagram) -> None:
        self._send_to(seat.address, datagram)

    def _send_to(self, address: Address, datagram: Datagram) -> None:
        self.counts["sent"] += 1
        self._out.append((address, self.codec.encode(datagram)))

    def _flush(self) -> list[tuple[Address, bytes]]:
        out, self._out = self._out, []
        return out
