"""What services write to stderr, as messages: a traceback is its last line."""

from __future__ import annotations

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

    def take(self, line: str) -> str | None:
        """Return the warning that a line brings, if it brings one: why a process ends is told with its end."""
        if not line.strip() or line[0].isspace() or line.startswith(_BETWEEN):
            return None
        self.last = line.strip().removeprefix(_REFUSAL)
        return None if line.startswith(_REFUSAL) else self.last
