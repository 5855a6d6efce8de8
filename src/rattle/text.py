"""Text of strangers, made fit for a terminal, a log line or an error message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def printable(text: object) -> str:
    """Return a text that can be encoded: bytes of a file name that are not UTF-8 become escapes."""
    return str(text).encode(errors="backslashreplace").decode()


def one_line(text: object, limit: int | None = None) -> str:
    """Return a text as one printable line of at most `limit` characters.

    Control characters, terminal escapes, line breaks and lone surrogates become blanks, and runs of blanks one blank.
    A text that is cut ends in an ellipsis.
    """
    line = str(text)
    if not line.isprintable():
        line = "".join(letter if letter.isprintable() else " " for letter in line)
    line = " ".join(line.split())
    return line if limit is None or len(line) <= limit else f"{line[: limit - 1]}…"


def with_article(noun: str) -> str:
    """Return a noun after "a" or "an", by its first letter."""
    return f"{'an' if noun[:1].lower() in set('aeiou') else 'a'} {noun}"


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ', did you mean ...?' with the names nearest to `name`, or nothing when none is near."""
    close = difflib.get_close_matches(name, list(names), n=3)
    return f", did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
