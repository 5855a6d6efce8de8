"""Which tick and phase it is, who is waited for, and when the next may begin. Sans I/O."""

from __future__ import annotations

from collections.abc import Collection
from math import inf

from rattle.services.sync.gathering import EpochStart
from rattle.services.sync.seats import Membership
from rattle.wire.lockstep import ALL_IDLE, LAST, Join, Phase, Role

#: Names of absent agents that a tick says: as many as a datagram has room for.
_MOST_ABSENT = 16


class TickBarrier:
    """The piece of work in progress: a tick and a phase, and the seats that have not answered yet."""

    def __init__(self, frequency: float | None, ticks: int | None) -> None:
        self.tick, self.phase, self.flags = 0, Phase.ACT, 0
        self.absent: tuple[str, ...] = ()
        self.waiting: set[Membership] = set()
        self.lost: set[str] = set()  # agents that were dropped, and have not come back
        self.due = inf  # when a phase that waits for its time may begin
        self.stands_still = False  # nobody is there
        self._period = 0.0 if frequency is None else 1 / frequency
        self._ticks = ticks
        self._next_tick_at = -inf

    @property
    def is_last(self) -> bool:
        """Whether no tick follows."""
        return bool(self.flags & LAST)

    @property
    def hashed_tick(self) -> int:
        """Return the tick whose end this phase's hashes are of."""
        return self.tick - 1 if self.phase == Phase.ACT else self.tick

    def start(self, beginning: EpochStart) -> None:
        """Begin an epoch."""
        self.tick, self.phase = beginning.tick, beginning.phase
        self.flags = ALL_IDLE if beginning.all_idle else 0
        if self.phase == Phase.ACT:
            self.flags |= self._end_flag()

    def is_now(self, tick: int, phase: Phase) -> bool:
        """Say whether this is the work in progress."""
        return tick == self.tick and phase == self.phase

    def is_due(self, now: float) -> bool:
        """Say whether a phase that had to wait for its time may begin."""
        return now >= self.due

    def next_phase(self, seats: Collection[Membership]) -> None:
        """Go on to the phase after this one, which is complete."""
        if self.phase == Phase.ACT:
            self.phase, self.flags = Phase.STEP, 0
            return
        agents = [seat for seat in seats if seat.role == Role.AGENT]
        self.tick, self.phase = self.tick + 1, Phase.ACT
        # Those who are away may be the very ones that the idle wait for, and come back with a tick only.
        all_there = bool(agents) and not self.lost and not any(seat.absent for seat in agents)
        self.flags = self._end_flag() | (ALL_IDLE if all_there and all(seat.idle for seat in agents) else 0)

    def is_open_to_arrivals(self, seats: Collection[Membership]) -> bool:
        """Say whether who has come gets a seat now: at the beginning of a tick, or when nobody else is there."""
        return (self.phase == Phase.ACT and not self.is_last) or all(seat.absent for seat in seats)

    def leave_out(self, join: Join) -> bool:
        """Go on after what a member has done that is ahead of all others, if it is; it would do nothing before that."""
        if (join.done_tick, join.done_phase) <= (self.tick, int(self.phase)):
            return False
        self.tick, self.phase = join.done_tick + 1, Phase.ACT
        self.flags = self._end_flag()
        return True

    def may_begin(self, seats: Collection[Membership], now: float) -> bool:
        """Say whether somebody is there and it is time; else `due` says when it is, or `stands_still`."""
        self.stands_still = not any(not seat.absent for seat in seats)
        self.due = inf
        if self.stands_still:
            return False
        if self.phase == Phase.ACT and now < self._next_tick_at:
            self.due = self._next_tick_at
            return False
        return True

    def begin_phase(self, seats: Collection[Membership], now: float) -> list[Membership]:
        """Return who is to be told now; all who take part are waited for."""
        if self.phase == Phase.ACT and self._period:
            # What was missed is left out, and not made up for.
            beat = self._next_tick_at + self._period
            self._next_tick_at = beat if beat > now else now + self._period
        self.absent = tuple(seat.name for seat in seats if seat.absent)[:_MOST_ABSENT]
        self.waiting = {seat for seat in seats if self._takes_part(seat)}
        return [seat for seat in seats if seat in self.waiting]

    def replace(self, old: Membership, new: Membership) -> None:
        """Wait for a later life of a member where the earlier one is waited for."""
        if old in self.waiting:
            self.waiting.discard(old)
            self.waiting.add(new)

    def _end_flag(self) -> int:
        return LAST if self._ticks is not None and self.tick > self._ticks else 0

    def _takes_part(self, seat: Membership) -> bool:
        return seat.role == int(self.phase) and not seat.absent
