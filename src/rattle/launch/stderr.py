"""What services write to stderr, as messages: a traceback is its last line."""

from __future__ import annotations

_BETWEEN = (
    "Traceback (most recent call last)",
    "During handling of the above exception",
    "The above exception was the direct cause",
)


class Messages:
    """Takes the lines of one process and gives back those that say something to a user."""

    def __init__(self) -> None:
        self.last = ""

    def take(self, line: str) -> str | None:
        """Return the message that a line brings, if it brings one."""
        if not line.strip() or line[0].isspace() or line.startswith(_BETWEEN):
            return None
        self.last = line.strip().removeprefix("Error: ")
        return self.last
