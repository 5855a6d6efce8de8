"""Events of lockstep runs: members come, go and answer, and are led by the Sync service."""

from __future__ import annotations

from typing import ClassVar

from rattle.events.event import Event, Level


class LockstepOver(Event, frozen=True, kw_only=True):
    """A lockstep run is over for a member, as it should be."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{member} takes no part in the lockstep run any more: {reason}"
    member: str
    reason: str


class LockstepLeft(Event, frozen=True, kw_only=True):
    """A lockstep member is led no more, though the run continues."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "the Sync service leads {member} no more: {reason}"
    member: str
    reason: str


class MemberCannotAct(Event, frozen=True, kw_only=True):
    """A member of a lockstep run has failed in its work, and leaves the run."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "{member} cannot do its work of tick {tick}"
    member: str
    tick: int


class JoiningAgain(Event, frozen=True, kw_only=True):
    """A member of a lockstep run has lost its place, and asks for another."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "Sync service {address}: {reason}: joining again"
    address: str
    reason: str


class HistoryComplete(Event, frozen=True, kw_only=True):
    """The history file of a Sync service holds all ticks already."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "the history file holds all {ticks} ticks: this run is over; another needs another file"
    ticks: int


class HistoriesDisagree(Event, frozen=True, kw_only=True):
    """Members of a lockstep run have played different histories."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "{members[0]} and {members[1]} disagree about {subject} from tick {tick} on"
    members: tuple[str, str]
    subject: str
    tick: int
    hashes: tuple[str, str]  # of the histories, in hexadecimal digits


class MemberCame(Event, frozen=True, kw_only=True):
    """Somebody has asked to take part in a lockstep run; `missing` says for whom it still waits."""

    sentence: ClassVar[str] = "{member} has come"
    member: str
    missing: str | None = None

    def _text(self) -> str:
        return super()._text() + (f"; waiting for {self.missing}" if self.missing else "")


class EpochBegan(Event, frozen=True, kw_only=True):
    """All have come who are waited for, and the ticks begin."""

    sentence: ClassVar[str] = "epoch {epoch} begins with tick {tick}: {members}"
    epoch: int
    tick: int
    members: str


class LockstepFinished(Event, frozen=True, kw_only=True):
    """The last tick of a lockstep run is over."""

    sentence: ClassVar[str] = "the run is over after {ticks} ticks"
    ticks: int | None


class MemberAhead(Event, frozen=True, kw_only=True):
    """A member that comes back has done more ticks than those who were there."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{member} has done more than those who were there: the run continues with tick {tick}"
    member: str
    tick: int


class MemberReplaced(Event, frozen=True, kw_only=True):
    """A member was started again, and takes its place."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{member} has been started again, and takes its place"
    member: str


class MemberLeft(Event, frozen=True, kw_only=True):
    """A member has said goodbye."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{member} leaves"
    member: str


class MemberGone(Event, frozen=True, kw_only=True):
    """Somebody who had come before the beginning is not heard any more."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{member} has left again"
    member: str


class MembersMissing(Event, frozen=True, kw_only=True):
    """A lockstep run waits for members to join."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "waiting for {missing} to join, for {seconds:.0f} s"
    missing: str
    seconds: float
    present: tuple[str, ...]


class MemberSilent(Event, frozen=True, kw_only=True):
    """A member has not been heard for as long as `sync.silence_seconds` says."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{member} has not been heard for {seconds:g} s: {consequence}"
    member: str
    tick: int
    seconds: float
    consequence: str


class MemberStillSilent(Event, frozen=True, kw_only=True):
    """A member is still waited for."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{member} is still waited for, after {seconds:.0f} s"
    member: str
    seconds: float


class MemberHeardAgain(Event, frozen=True, kw_only=True):
    """A member that was silent is heard again."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{member} is heard again, after {seconds:.1f} s"
    member: str
    seconds: float


class BadSeals(Event, frozen=True, kw_only=True):
    """Somebody sends datagrams without the seal of the key."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = (
        "datagrams without the right seal are dropped: is the token, or sync.key_file, the same everywhere?"
    )
