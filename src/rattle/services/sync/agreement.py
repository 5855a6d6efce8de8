"""Whether members that report the same subject agree on what has happened to it. Sans I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Disagreement(NamedTuple):
    """Two members that report different histories of a subject, and the first tick of which they do."""

    subject: str
    tick: int
    members: tuple[str, str]
    hashes: tuple[str, str]  # in hexadecimal digits


class Agreement:
    """The hashes of the last complete tick, and the first disagreement about each subject."""

    def __init__(self) -> None:
        self.found: dict[str, Disagreement] = {}
        self._tick = 0
        self._reported: dict[str, tuple[str, bytes]] = {}  # by subject: who said what first

    def report(self, tick: int, member: str, hashes: Mapping[str, bytes]) -> list[Disagreement]:
        """Take what a member says of the end of a tick; returns what is new of disagreements."""
        if tick != self._tick:
            self._tick = tick
            self._reported.clear()
        new = []
        for subject, history in hashes.items():
            other, said = self._reported.setdefault(subject, (member, history))
            if said != history and subject not in self.found:
                self.found[subject] = Disagreement(subject, tick, (other, member), (said.hex(), history.hex()))
                new.append(self.found[subject])
        return new
