"""Members that are not heard: asked, suspected, and then waited for, dropped or played on without. Sans I/O."""

from __future__ import annotations

from math import inf

from rattle.events import of_lockstep
from rattle.services.sync.leader import Leader
from rattle.services.sync.outbox import DatagramOutbox
from rattle.services.sync.seats import Membership
from rattle.settings.services import SyncSection
from rattle.wire.lockstep import DROPPED, Bye, Ping, Role

#: The longest time between two reminders of who is waited for, in seconds.
LONGEST_REMINDER = 60.0
_WHAT_COMES = {"wait": "it is waited for", "drop": "it loses its seat", "forward": "it is played on without"}


class FailureDetector:
    """Knows since when members have not been heard, and does what the settings say of it."""

    def __init__(self, settings: SyncSection, leader: Leader, out: DatagramOutbox) -> None:
        self._seconds = settings.silence_seconds
        self._policy = settings.silent
        self._heartbeat = settings.heartbeat_seconds
        self._leader = leader
        self._out = out

    def hear(self, seat: Membership, now: float) -> None:
        """Note that a member is there."""
        seat.heard_at = now
        if seat.suspected_at != inf:
            silent = now - seat.suspected_at + self._seconds
            self._out.say(of_lockstep.MemberHeardAgain(member=seat.name, seconds=silent))
            seat.suspected_at = seat.remind_at = inf
            seat.absent = False  # from the next tick on
            if self._leader.rounds.stands_still:
                self._leader.go_on(now)

    def excuse(self, seconds: float, now: float) -> None:
        """Overlook a time in which this process stood still, and heard nobody: what has come meanwhile is read next."""
        for seat in self._leader.seats.values():
            seat.heard_at = min(now, seat.heard_at + seconds)

    def look_after(self, seat: Membership, now: float) -> None:
        """Suspect who is silent, and ask who has not been heard for a heartbeat."""
        leader = self._leader
        if leader.finished:
            return
        silent = now - seat.heard_at
        if silent >= self._seconds and seat.suspected_at == inf:
            self._suspect(seat, now)
        elif now >= seat.remind_at:
            seat.remind_at = now + min(LONGEST_REMINDER, silent)
            self._out.say(of_lockstep.MemberStillSilent(member=seat.name, seconds=silent))
        if seat.name in leader.seats and silent >= self._heartbeat and now - seat.pinged_at >= self._heartbeat:
            seat.pinged_at = now
            self._out.send(seat, Ping(leader.session, leader.epoch, seat.number, 1))

    def _suspect(self, seat: Membership, now: float) -> None:
        leader = self._leader
        seat.suspected_at = now
        policy = self._policy if seat.role == Role.AGENT else "wait"  # without a world nobody goes on
        self._out.say(
            of_lockstep.MemberSilent(
                member=seat.name, tick=leader.rounds.tick, seconds=self._seconds, consequence=_WHAT_COMES[policy]
            )
        )
        if policy == "drop":
            leader.rounds.lost.add(seat.name)
            self._out.send(seat, Bye(leader.session, leader.epoch, seat.number, DROPPED))
            leader.remove(seat, now)
        elif policy == "forward":
            seat.absent, seat.is_comparable, seat.idle = True, False, False
            seat.told.rest()
            leader.stop_waiting_for(seat, now)
        else:
            seat.remind_at = now + self._seconds
