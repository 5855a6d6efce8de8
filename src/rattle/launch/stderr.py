"""What services write to stderr, as messages: a traceback is its last line."""

from __future__ import annotations

from rattle.events import ENDS, WARNING, Event, read_event
from rattle.text import one_line

#: Longer texts are cut.
_LONGEST_TEXT = 2000
_BETWEEN = (
    "Traceback (most recent call last)",
    "During handling of the above exception",
    "The above exception was the direct cause",
)


class Messages:
    """Takes the lines of one process and gives back those that say something to a user; `last` is the newest event."""

    def __init__(self) -> None:
        self.last = Event(WARNING, "")

    def take(self, line: str) -> Event | None:
        """Return the warning that a line brings, if it brings one, as printable text.

        Why a process ends is told with its end.
        """
        if not line.strip() or line[0].isspace() or line.startswith(_BETWEEN):
            return None
        event = read_event(line) or Event(WARNING, line)
        self.last = event._replace(text=one_line(event.text, _LONGEST_TEXT))
        return None if event.name in ENDS else self.last
