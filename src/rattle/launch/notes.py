"""What happens to services, and what they say themselves, as events; and which of these are worth showing."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import NamedTuple

from rattle.events import EVENTS, Event, Level, LogEntry, as_event, of_launch, of_services, read_line
from rattle.text import one_line
from rattle.trainer.display import Throttle

_WARNING_SECONDS = 1.0
#: Longer lines of a service are cut.
_LONGEST_LINE = 2000
#: Between the parts of a traceback that Python has written to standard error; its last line says what happened.
_BETWEEN = (
    "Traceback (most recent call last)",
    "During handling of the above exception",
    "The above exception was the direct cause",
)


class Note(NamedTuple):
    """An event to be written down and shown: of a service, by name, or of the run.

    `said` is what the service itself has said of it; its row of `logs` is the service's own.
    """

    name: str
    event: Event
    level: Level
    said: LogEntry | None = None

    @property
    def sentence(self) -> str:
        """Return what has happened as a line."""
        return str(self.event) if self.said is None else f"{self.name}: {self.event}"


def note(event: of_launch.OfService, level: Level | None = None) -> Note:
    """Return a note of what has happened to a service, at the event's own level or another."""
    return Note(event.service, event, level or event.level)


#: How a process says why it ends; it is told with its end.
ENDS = (of_services.Error, of_services.PortTaken)


class Messages:
    """Takes the lines that one service writes to standard error, and gives back those that are worth a note.

    `last` is the newest event.
    """

    def __init__(self, name: str) -> None:
        self.last: Event = of_services.Output(line="")
        self._name = name

    def take(self, line: str) -> Note | None:
        """Return the warning or error that a line brings, if it brings one; the end of a process is none."""
        if not line.strip() or line[0].isspace() or line.startswith(_BETWEEN):
            return None
        entry = read_line(line)
        if entry is None:
            self.last = of_services.Output(line=one_line(line, _LONGEST_LINE))
            entry = LogEntry("", "WARNING", self._name, self.last.name, str(self.last), "", "", "", 0, {})
        elif entry.level not in ("WARNING", "ERROR"):
            return None
        else:
            self.last = as_event(entry, EVENTS) or of_services.Log(logger=entry.event, message=entry.message)
        return None if isinstance(self.last, ENDS) else Note(self._name, self.last, "WARNING", entry)


class Warnings:
    """Lets warnings of services through at most once a second, and none twice in a row; all of them are in its log."""

    def __init__(self) -> None:
        self._throttle = Throttle(_WARNING_SECONDS)
        self._last: str | None = None

    def print(self, note: Note) -> None:
        """Print a warning that is worth showing to stderr."""
        if note.level == "WARNING" and self.worth_showing(note):
            with suppress(OSError):  # nobody reads any more
                sys.stderr.write(note.sentence + "\n")

    def worth_showing(self, note: Note) -> bool:
        """Say whether something should be shown."""
        if note.said is None:
            return True
        if note.sentence == self._last or not self._throttle.ready():
            return False
        self._last = note.sentence
        return True
