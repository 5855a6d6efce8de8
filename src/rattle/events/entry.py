"""An event as a line of JSON and as a row of `logs`, as programs write it and read it."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from rattle.events.event import Event


class LogEntry(msgspec.Struct):
    """One event, or one message of `logging`, with what is known of the process that it comes from."""

    time: str  # UTC, ISO 8601 with microseconds
    level: str
    service: str
    event: str
    message: str  # the sentence
    experiment: str
    run_id: str
    host: str
    pid: int
    fields: dict[str, Any]

    def line(self) -> bytes:
        """Return it as a line of JSON, which ends in a line break and can be shown in any terminal."""
        return _printable(msgspec.json.encode(self)) + b"\n"

    def row(self) -> dict[str, Any]:
        """Return its row of the table `logs`; other columns than these are the event's own fields."""
        return {
            "time": self.time,
            "level": self.level,
            "service": self.service,
            "event": self.event,
            "experiment": self.experiment,
            "run_id": self.run_id,
            "host": self.host,
            "pid": self.pid,
            "fields": _printable(msgspec.json.encode(self.fields)).decode(),
        }


def _printable(content: bytes) -> bytes:
    """Return JSON with escapes for what does not print, most of which JSON allows: strangers may have sent it."""
    text = content.decode()
    if text.isprintable():
        return content
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text).encode()


_decoder = msgspec.json.Decoder(LogEntry)


def read_line(line: str) -> LogEntry | None:
    """Return the event that a line of JSON holds; None for any other line."""
    if not line.startswith('{"time":'):
        return None
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


def as_event(entry: LogEntry, kinds: dict[str, type[Event]]) -> Event | None:
    """Return an entry as the event of the list that it is; None where its fields are not those of that event."""
    kind = kinds.get(entry.event)
    try:
        return None if kind is None else msgspec.convert(entry.fields, kind)
    except msgspec.ValidationError:
        return None
