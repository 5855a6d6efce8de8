"""What an actor is told, what it says of itself, and how it is stopped and held."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from rattle.services.inference.rollout_sender import RolloutSender

Kind = Literal["vector", "agent"]
State = Literal["playing", "paused", "waiting", "stopped", "failed"]


@dataclass(frozen=True)
class Assignment:
    """Which worlds of a run an actor plays, and where; by the agent API a world is one snake."""

    name: str
    kind: Kind
    policy_id: str
    env_url: str
    first_world: int
    worlds: int


@dataclass(frozen=True)
class ActorReport:
    """What an actor does, and has done since it was started."""

    state: State = "waiting"
    reason: str = ""  # what it waits for, or why it has ended
    policy_version: int | None = None  # that plays, or played last
    rollouts: int = 0
    env_steps: int = 0


class ActorStatus(NamedTuple):
    """What an actor plays, and what it and its link to the Training service report."""

    assignment: Assignment
    report: ActorReport
    verdicts: Mapping[str, int]  # of its rollouts' receipts
    last_error: str | None  # of its link

    @classmethod
    def of(cls, assignment: Assignment, control: ActorHandle, contributions: RolloutSender) -> ActorStatus:
        """Return how an actor stands now."""
        return cls(assignment, control.report_so_far, dict(contributions.verdicts), contributions.last_error)


class ActorHistory(NamedTuple):
    """What has happened to snakes up to the end of a tick, as a hash of each."""

    tick: int
    snakes: Mapping[str, bytes]


class ActorHandle:
    """Stops and pauses an actor, and keeps what it reports; for use in several threads."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._paused = False
        self._changed = threading.Condition()
        self._report = ActorReport()
        self._at_end: list[Callable[[], object]] = []

    @property
    def report_so_far(self) -> ActorReport:
        """Return what the actor has reported last."""
        return self._report

    def report(self, state: State, reason: str = "", policy_version: int | None = None) -> None:
        """Say what the actor does now."""
        last = self._report
        version = last.policy_version if policy_version is None else policy_version
        self._report = ActorReport(state, reason, version, last.rollouts, last.env_steps)

    def count(self, rollouts: int, env_steps: int) -> None:
        """Add to what the actor has done."""
        last = self._report
        self._report = ActorReport(
            last.state, last.reason, last.policy_version, last.rollouts + rollouts, last.env_steps + env_steps
        )

    @property
    def is_paused(self) -> bool:
        """Say whether the actor was told to wait."""
        return self._paused

    def pause(self) -> None:
        """Have the actor wait after the rollout in progress."""
        self._paused = True

    def resume(self) -> None:
        """Have the actor continue."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def end(self) -> None:
        """Have the actor stop as soon as it can."""
        with self._changed:
            self.stop.set()
            self._changed.notify_all()
            calls = list(self._at_end)
        for call in calls:
            call()

    @contextmanager
    def at_end(self, call: Callable[[], object]) -> Iterator[None]:
        """Have `call` made when the actor is told to stop during the block, or has been before."""
        with self._changed:
            self._at_end.append(call)
            ended = self.stop.is_set()
        if ended:
            call()
        try:
            yield
        finally:
            with self._changed:
                self._at_end.remove(call)

    def may_go_on(self) -> bool:
        """Wait while the actor is paused; returns whether it should continue at all."""
        with self._changed:
            if self._paused and not self.stop.is_set():
                self.report("paused")
                self._changed.wait_for(lambda: not self._paused or self.stop.is_set())
        return not self.stop.is_set()


class Actor(Protocol):
    """An actor: plays what it was assigned, in a thread of its own."""

    def play(self, contributions: RolloutSender, control: ActorHandle) -> None:
        """Play until `control` says stop, whatever happens to the servers meanwhile."""
