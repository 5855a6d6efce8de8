"""Whether runs were the same: histories of their ticks, and what they learnt, compared. No files and no clock."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from rattle.launch.errors import LaunchError

#: Columns of an update that hold times, or follow from them.
TIMES = frozenset({"seconds", "env_steps_per_second", "policy_age", "max_policy_age"})

Curves = Mapping[str, NDArray[np.float64]]


class AgreedTick(NamedTuple):
    """A phase at whose end all said what has happened up to the end of a tick: worlds first, agents after them."""

    tick: int
    by_agents: bool

    @property
    def phase(self) -> str:
        """Return the name of the phase."""
        return "act" if self.by_agents else "step"


class Contradiction(NamedTuple):
    """A subject of which a run says two things about one moment."""

    moment: AgreedTick
    subject: str
    hashes: tuple[str, str]


@dataclass(frozen=True)
class Difference:
    """The first moment of which runs say different things, and what each says, None for nothing, by subject."""

    moment: AgreedTick
    subjects: Mapping[str, tuple[str | None, ...]]


class _ComparedLine(msgspec.Struct):
    tick: Annotated[int, Meta(ge=0)]
    phase: Literal["act", "step"]
    hashes: dict[str, str]


class MemberHistory:
    """What a run's members have said of every tick.

    A hash covers all that has happened to its subject, so that moments may be missing without harm, as those are that a
    Sync service could not write down any more; and one may be there again after it was started again.
    """

    def __init__(self) -> None:
        self.moments: dict[AgreedTick, dict[str, str]] = {}
        self.contradictions: list[Contradiction] = []

    def add(self, moment: AgreedTick, hashes: Mapping[str, str]) -> None:
        """Take what was said at a moment."""
        known = self.moments.setdefault(moment, {})
        for subject, said in hashes.items():
            if known.setdefault(subject, said) != said:
                self.contradictions.append(Contradiction(moment, subject, (known[subject], said)))

    @property
    def ticks(self) -> int:
        """Return the last tick."""
        return max((moment.tick for moment in self.moments), default=0)

    def newest(self) -> dict[str, str]:
        """Return the last hash of every subject."""
        return {subject: said for moment in sorted(self.moments) for subject, said in self.moments[moment].items()}

    def digest(self) -> str:
        """Return one hash of all that has happened to all subjects, 64 hexadecimal digits."""
        lines = (f"{subject} {said}\n" for subject, said in sorted(self.newest().items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_history(content: bytes, source: str) -> MemberHistory:
    """Return the history in a file's content; half a line at its end, as a kill leaves it, is left out.

    Raises LaunchError, naming `source`, for what is no history.
    """
    decoder, history = msgspec.json.Decoder(_ComparedLine), MemberHistory()
    try:
        for line in decoder.decode_lines(content[: content.rfind(b"\n") + 1]):
            history.add(AgreedTick(line.tick, line.phase == "act"), line.hashes)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LaunchError(f"{source} is no history: {error}") from None
    return history


def first_difference(histories: Sequence[MemberHistory]) -> Difference | None:
    """Return the first moment of which histories that know it say different things.

    Agents say as much as fits into a datagram, so that what is said depends on how many processes they share: of them,
    only what several say is compared.
    """
    for moment in sorted(set().union(*(history.moments for history in histories))):
        said = [history.moments.get(moment) for history in histories]
        known = [hashes for hashes in said if hashes is not None]
        different = {
            subject: tuple(None if hashes is None else hashes.get(subject) for hashes in said)
            for subject in sorted(set().union(*known))
            if len({hashes.get(subject) for hashes in known if subject in hashes or not moment.by_agents}) > 1
        }
        if different:
            return Difference(moment, different)
    return None


def first_different_update(runs: Sequence[Curves]) -> int | None:
    """Return the first version of the policy that was not made in the same way, or not made, in all runs."""
    learnt = sorted(set().union(*runs) - TIMES)
    lengths = [len(curves["policy_version"]) for curves in runs]
    shortest = min(lengths)
    for row in range(shortest):
        made = {
            tuple(np.float64(curves[name][row]).tobytes() if name in curves else None for name in learnt)
            for curves in runs
        }
        if len(made) > 1:
            return int(runs[0]["policy_version"][row])
    return shortest + 1 if max(lengths) > shortest else None
