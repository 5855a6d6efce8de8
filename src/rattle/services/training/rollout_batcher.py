"""What happens to a rollout that arrives: taken once, refused, or late; and when an update is due. Sans I/O."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from enum import Enum
from typing import Any, Generic, TypeVar

import numpy as np

from rattle.wire.problems import RequestError

Content = TypeVar("Content")

#: Lives of actors that are remembered at least.
_LIVES = 1024


class Verdict(Enum):
    """What happened to a rollout, by the names that receipts have."""

    ACCEPTED = "ACCEPTED"
    DUPLICATE = "DUPLICATE"
    STALE = "STALE"
    FINISHED = "FINISHED"
    REFUSED = "REFUSED"


@dataclass(frozen=True)
class Origin:
    """Who played a rollout, in which worlds of the run, and with which policy."""

    actor: str
    life: str
    sequence: int
    continues: bool
    first_world: int
    worlds: int
    policy_version: int
    lineage: str


@dataclass(frozen=True)
class Counted:
    """The last rollout of an actor's life that was counted, and the last that was learnt from (0: none)."""

    sequence: int
    policy_version: int
    first_world: int
    worlds: int
    learnt: int = 0


@dataclass(frozen=True)
class ReceivedRollout(Generic[Content]):
    """A rollout that was taken for an update; `follows` says that no tick is missing since the last one learnt from."""

    origin: Origin
    content: Content
    follows: bool


class RolloutBatcher(Generic[Content]):
    """The rollouts of a run that wait to be learnt from, and the memory of those that were counted.

    `version` is that of the newest policy. In mode on_policy at most one rollout of a world and version is taken; in
    mode async they queue, and an actor whose rollouts fill the queue must wait.
    """

    def __init__(self, worlds: int, lineage: str, *, in_order: bool, max_policy_age: int, max_waiting: int) -> None:
        self.worlds = worlds
        self.lineage = lineage
        self.version = 0
        self.counts: Counter[Verdict] = Counter()
        self._in_order = in_order
        self._max_age = 0 if in_order else max_policy_age
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[Origin, Content]] = deque()
        self._worlds_waiting = 0
        self._covered = np.zeros(worlds, np.bool_)  # mode on_policy: worlds with a rollout of the newest version
        self._lives: dict[tuple[str, str], Counted] = {}  # by actor and life, the last that was heard of at the end
        self._followed: dict[int, Origin] = {}  # by first world: the last learnt from, of worlds that do not overlap

    def __len__(self) -> int:
        """Return how many rollouts wait."""
        return len(self._waiting)

    def offer(self, origin: Origin, content: Content) -> tuple[Verdict, str]:
        """Return what happens to a rollout, and why if it is not taken; raises RequestError for what cannot be."""
        verdict, reason = self._judge(origin)
        self.counts[verdict] += 1
        if verdict is Verdict.ACCEPTED:
            self._waiting.append((origin, content))
            self._worlds_waiting += origin.worlds
            self._covered[origin.first_world : origin.first_world + origin.worlds] = True
            self._count(origin)
        return verdict, reason

    def must_wait(self, actor: str) -> bool:
        """Whether an actor's next rollout should not be read yet: updates are made more slowly than rollouts arrive."""
        if self._in_order or not self.is_due:
            return False
        own = sum(origin.actor == actor for origin, _ in self._waiting)
        return own >= self._max_waiting or self._worlds_waiting >= self._max_waiting * self.worlds

    @property
    def is_due(self) -> bool:
        """Whether enough waits for an update."""
        return bool(self._covered.all()) if self._in_order else self._worlds_waiting >= self.worlds

    def take(self) -> list[ReceivedRollout[Content]]:
        """Return what the update that is due learns from: in order of worlds, or as it came."""
        taken = []
        if self._in_order:
            taken = sorted(self._waiting, key=lambda waiting: waiting[0].first_world)
            self._waiting.clear()
            self._worlds_waiting = 0
        else:
            while sum(origin.worlds for origin, _ in taken) < self.worlds:
                taken.append(self._waiting.popleft())
                self._worlds_waiting -= taken[-1][0].worlds
        return [ReceivedRollout(origin, content, self.follow(origin)) for origin, content in taken]

    def follows(self, origin: Origin) -> bool:
        """Return whether a rollout follows on the last one that was learnt from of just these worlds."""
        before = self._followed.get(origin.first_world)
        return (
            before is not None
            and origin.continues
            and (before.worlds, before.actor, before.life) == (origin.worlds, origin.actor, origin.life)
            and before.sequence == origin.sequence - 1
        )

    def follow(self, origin: Origin) -> bool:
        """Note that a rollout is learnt from; return whether it follows."""
        follows = self.follows(origin)
        if not follows:
            for other in [other for other in self._followed.values() if _overlap(other, origin)]:
                del self._followed[other.first_world]
        self._followed[origin.first_world] = origin
        return follows

    def learnt(self, parts: list[ReceivedRollout[Content]], version: int) -> None:
        """Continue with the policy that was made of some parts; drops what has grown too old meanwhile."""
        self.version = version
        for part in parts:
            life = part.origin.actor, part.origin.life
            if life in self._lives:
                self._lives[life] = replace(self._lives[life], learnt=part.origin.sequence)
        self._covered[:] = False
        kept = [waiting for waiting in self._waiting if self._age(waiting[0]) <= self._max_age]
        self.counts[Verdict.STALE] += len(self._waiting) - len(kept)
        self._waiting = deque(kept)
        self._worlds_waiting = sum(origin.worlds for origin, _ in kept)
        self._forget_lives()

    def drop(self, parts: list[ReceivedRollout[Content]], lineage: str) -> None:
        """Forget some parts that could not be learnt from; all should be played again, as of another lineage."""
        self.lineage = lineage
        for part in parts:
            self._followed.pop(part.origin.first_world, None)
        self.counts[Verdict.STALE] += len(parts) + len(self._waiting)
        self._waiting.clear()
        self._worlds_waiting = 0
        self._covered[:] = False

    def actors(self) -> Mapping[str, tuple[str, Counted]]:
        """Return the latest life of every actor and what was counted of it."""
        return {actor: (life, counted) for (actor, life), counted in self._lives.items()}

    def state(self) -> dict[str, Any]:
        """Return, in plain values, what must be known again after a restart: only what was learnt from counts."""
        lives = [
            (*life, *astuple(replace(counted, sequence=counted.learnt)))
            for life, counted in self._lives.items()
            if counted.learnt
        ]
        return {"lives": lives, "followed": [astuple(origin) for origin in self._followed.values()]}

    def restore(self, state: Mapping[str, Any], version: int) -> None:
        """Continue where a state was taken, at a version; raises KeyError, TypeError or ValueError for a bad state."""
        self.version = version
        self._lives = {(actor, life): Counted(*counted) for actor, life, *counted in state["lives"]}
        followed = [Origin(*values) for values in state["followed"]]
        self._followed = {origin.first_world: origin for origin in followed}

    def _judge(self, origin: Origin) -> tuple[Verdict, str]:
        counted = self._lives.get((origin.actor, origin.life))
        if counted is not None and origin.sequence <= counted.sequence:
            return Verdict.DUPLICATE, f"rollout {counted.sequence} of this life was counted already"
        if origin.lineage != self.lineage:
            return Verdict.STALE, "the policy that played is from before the service was started"
        if self._age(origin) < 0:
            raise RequestError(
                "bad_value",
                f"policy_version: {origin.policy_version} was never made, the newest is {self.version}",
                "policy_version",
            )
        if self._age(origin) > self._max_age:
            return Verdict.STALE, f"the policy that played is {self._age(origin)} updates old"
        return self._judge_worlds(origin) if self._in_order else (Verdict.ACCEPTED, "")

    def _judge_worlds(self, origin: Origin) -> tuple[Verdict, str]:
        """Return whether a rollout of the newest version is the first of its worlds."""
        covered = self._covered[origin.first_world : origin.first_world + origin.worlds]
        if covered.all():
            return Verdict.DUPLICATE, "a rollout of these worlds by this version was counted already"
        if covered.any():
            self._give_way(origin)
        return Verdict.ACCEPTED, ""

    def _give_way(self, origin: Origin) -> None:
        """Drop what waits of worlds that are divided otherwise now: it would keep the others out forever."""
        dropped = [waiting[0] for waiting in self._waiting if _overlap(waiting[0], origin)]
        self._waiting = deque(waiting for waiting in self._waiting if waiting[0] not in dropped)
        for other in dropped:
            self._worlds_waiting -= other.worlds
            self._covered[other.first_world : other.first_world + other.worlds] = False
        self.counts[Verdict.STALE] += len(dropped)

    def _age(self, origin: Origin) -> int:
        return self.version - origin.policy_version

    def _count(self, origin: Origin) -> None:
        before = self._lives.pop((origin.actor, origin.life), None)
        self._lives[origin.actor, origin.life] = Counted(
            origin.sequence,
            origin.policy_version,
            origin.first_world,
            origin.worlds,
            before.learnt if before is not None else 0,
        )

    def _forget_lives(self) -> None:
        """Forget the lives that were not heard of for longest, if all that they have sent would be too old by now."""
        for life in list(self._lives)[: max(0, len(self._lives) - _LIVES)]:
            if self.version - self._lives[life].policy_version > self._max_age:
                del self._lives[life]


def _overlap(one: Origin, other: Origin) -> bool:
    return one.first_world < other.first_world + other.worlds and other.first_world < one.first_world + one.worlds
