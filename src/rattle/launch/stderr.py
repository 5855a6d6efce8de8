"""What services write to stderr, as messages: a traceback is its last line."""

from __future__ import annotations

from rattle.events import WARNING, Event, read_event
from rattle.text import one_line

#: Longer texts are cut.
_LONGEST_TEXT = 2000
_BETWEEN = (
    "Traceback (most recent call last)",
    "During handling of the above exception",
    "The above exception was the direct cause",
)


#: How the `rattle` command begins the line that it ends with when it cannot do what it is told.
_REFUSAL = "Error: "


class Messages:
    """Takes the lines of one process and gives back those that say something to a user; `last` is the newest."""

    def __init__(self) -> None:
        self.last = ""

    def take(self, line: str) -> Event | None:
        """Return the warning that a line brings, if it brings one, as printable text.

        Why a process ends is told with its end.
        """
        if not line.strip() or line[0].isspace() or line.startswith(_BETWEEN):
            return None
        name, text = read_event(line) or (WARNING, line.removeprefix(_REFUSAL))
        self.last = one_line(text, _LONGEST_TEXT)
        return None if line.startswith(_REFUSAL) else Event(name, self.last)
