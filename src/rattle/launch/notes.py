"""What has happened to services, in sentences, and which of these are worth showing."""

from __future__ import annotations

import sys
from contextlib import suppress

from rattle.launch.supervisor import Note
from rattle.trainer.display import Throttle

_WARNING_SECONDS = 1.0


def sentence(note: Note) -> str:
    """Return what has happened to a service as a line."""
    match note.event:
        case "service_started" | "service_restarted":
            return f"{note.name}: {note.event.removeprefix('service_')}, pid {note.fields['service_pid']}"
        case "service_ready":
            return f"{note.name}: ready at {note.fields['address']}"
        case "service_killed":
            return f"{note.name}: killed on purpose, pid {note.fields['service_pid']}"
        case "service_died":
            return f"{note.name}: died: {note.fields['reason']}"
        case "service_moved":
            return f"{note.name}: another program took its port: it is at {note.fields['address']} now"
        case "port_taken":
            return f"{note.name}: cannot start again before its port is free: {note.fields['reason']}"
        case "run_stands_still" | "kills_too_often":
            return str(note.fields["text"])
        case "service_warning":
            return f"{note.name}: {note.fields['text']}"
    return f"{note.name}: {note.event.removeprefix('service_').replace('_', ' ')}"


class Warnings:
    """Lets warnings of services through at most once a second, and none twice in a row; all of them are in its log."""

    def __init__(self) -> None:
        self._throttle = Throttle(_WARNING_SECONDS)
        self._last: Note | None = None

    def print(self, note: Note) -> None:
        """Print a warning that is worth showing to stderr."""
        if note.level == "WARNING" and self.worth_showing(note):
            with suppress(OSError):  # nobody reads any more
                sys.stderr.write(sentence(note) + "\n")

    def worth_showing(self, note: Note) -> bool:
        """Say whether something is to be shown."""
        if note.event != "service_warning":
            return True
        if note == self._last or not self._throttle.ready():
            return False
        self._last = note
        return True
