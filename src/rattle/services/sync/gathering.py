"""Who has come, whether all are there that are wanted, and at which work an epoch begins. Sans I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from rattle.wire.lockstep import ALL_IDLE, Join, Phase, Role

#: Members at a time: the names of many, and the datagrams to all, must stay small.
MOST_MEMBERS = 256


def a_later_life(name: str) -> str:
    """Return in words why an earlier life is refused."""
    return f"a later life of '{name}' has come: give every member a name of its own (sync.name)"


class PendingMembers:
    """Those who want to take part and have no seat yet, the newest life of each name."""

    def __init__(self, wanted: Collection[str], count: int) -> None:
        self._wanted = frozenset(wanted)
        self.count = len(self._wanted) or count  # of members that are wanted
        self.lives: dict[str, tuple[Join, tuple[str, int]]] = {}
        self._heard_at: dict[str, float] = {}

    @property
    def are_complete(self) -> bool:
        """Whether all are there that are wanted."""
        return len(self.lives) >= self.count

    def later_life(self, join: Join) -> int:
        """Return the life of its name that has come, 0 where that is not later."""
        known = self.lives.get(join.name)
        return known[0].life if known is not None and known[0].life > join.life else 0

    def add(self, join: Join, address: tuple[str, int], now: float) -> str | None:
        """Take in an arrival; returns the reason for which it is refused, None when it is not."""
        if self._wanted and join.name not in self._wanted:
            return f"'{join.name}' is not one of sync.participants: {', '.join(sorted(self._wanted))}"[:200]
        self.lives[join.name] = join, address
        self._heard_at[join.name] = now
        return None

    def forget_silent(self, since: float) -> list[str]:
        """Forget those who have not asked again since some time; they have gone. Returns their names."""
        gone = [name for name in self.lives if self._heard_at[name] < since]
        for name in gone:
            del self.lives[name]
        return gone

    def missing(self) -> str:
        """Return in words who is waited for."""
        if self._wanted:
            return ", ".join(sorted(self._wanted - self.lives.keys()))
        return f"{self.count - len(self.lives)} more"


class EpochStart(NamedTuple):
    """Where an epoch begins: with a piece of work that may have been done by some already."""

    session: int
    epoch: int
    tick: int
    phase: Phase
    all_idle: bool  # every agent was, in the tick before


def beginning(joins: Iterable[Join], fresh_session: int) -> EpochStart:
    """Return where to begin with these members: with the latest work that any of them remembers to have done.

    A phase begins only when the one before is complete, so everything before that was done by all.
    """
    remembered = [join for join in joins if join.session]
    if not remembered:
        return EpochStart(fresh_session, 1, 1, Phase.ACT, all_idle=False)
    latest = max(remembered, key=lambda join: (join.epoch, join.done_tick, join.done_phase, join.session))
    same = [join for join in remembered if join.session == latest.session]
    furthest = max(same, key=lambda join: (join.done_tick, join.done_phase))
    epoch = max(join.epoch for join in same) + 1
    if not furthest.done_tick:
        return EpochStart(latest.session, epoch, 1, Phase.ACT, all_idle=False)
    phase = Phase(furthest.done_phase or 1)
    all_idle = phase == Phase.ACT and bool(furthest.done_flags & ALL_IDLE)
    return EpochStart(latest.session, epoch, furthest.done_tick, phase, all_idle)


def was_idle(join: Join) -> bool:
    """Whether an agent was idle in the last work that it did."""
    return join.role == Role.AGENT and join.done_tick > 0 and join.idle
