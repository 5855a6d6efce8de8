"""A member of a lockstep run in an event loop: its socket, its timer, and the faults that tests ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rattle.wire.lockstep import Phase, Role


@dataclass(frozen=True)
class MemberSettings:
    """Where the Sync service is, and how to speak with it."""

    address: str  # HOST:PORT
    key: bytes | None = None
    loss: float = 0.0  # for tests: the fraction of datagrams that is not sent
    delay_seconds: float = 0.0  # for tests: datagrams and work are held up by a random time of up to this


class Work(NamedTuple):
    """What a member is told to do."""

    tick: int
    phase: Phase
    all_idle: bool  # every agent said in the tick before that it waits for something outside
    last: bool  # no tick follows
    absent: tuple[str, ...]  # agents that are played on without


class Answer(NamedTuple):
    """What it says when it has done so."""

    hashes: Mapping[str, bytes]  # by subject, 8 bytes each
    idle: bool = False


class LockstepMember:
    """Takes part in a lockstep run: `work` is called with each piece of work, once, and `finish` says that it is done.

    `ended` is called with a reason when nothing more is to be done here: the run is over, or this member is refused.
    """

    def __init__(
        self,
        settings: MemberSettings,
        name: str,
        role: Role,
        work: Callable[[Work], None],
        ended: Callable[[str], None],
    ) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Begin to join, in a running event loop."""

    def finish(self, answer: Answer) -> None:
        """Say that the work in progress is done; may be called within `work`, and in the event loop's thread only."""

    async def leave(self) -> None:
        """Say goodbye, and wait a little until that is heard."""
