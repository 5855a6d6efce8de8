"""Events that a process tells the one that started it: a line of JSON on standard error for each.

Warnings are events, and so is the reason for which a process ends.
Programs act on the name of an event, never on the wording of its text.
"""

from __future__ import annotations

import json
import logging
from typing import NamedTuple

#: The name of what has none of its own.
WARNING = "warning"
#: A lockstep run is over for a member, as it should be.
LOCKSTEP_OVER = "lockstep_over"
#: A lockstep member is led no more, though the run goes on.
LOCKSTEP_LEFT = "lockstep_left"
#: Members of a lockstep run have played different histories.
HISTORIES_DISAGREE = "histories_disagree"
#: An environment has failed, and the run that is played in it cannot go on.
ENVIRONMENT_FAILED = "environment_failed"
#: A process ends because of something that its user has to mend: to start it again does not help.
ERROR = "error"
#: A process ends because another program has its port.
PORT_TAKEN = "port_taken"
#: The last words of a process: they say why it ends.
ENDS = frozenset({ERROR, PORT_TAKEN})


#: Characters of a traceback that an event tells.
_MOST_OF_A_TRACEBACK = 10_000


class Event(NamedTuple):
    """What has happened, by name and in words."""

    name: str
    text: str
    traceback: str = ""


class EventFormatter(logging.Formatter):
    """Writes a log record, with its traceback if it has one, as an event of one line.

    `extra={"event": NAME}` names the event.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        traceback = self.formatException(record.exc_info) if record.exc_info else ""
        return event_line(getattr(record, "event", WARNING), record.getMessage(), traceback)


def event_line(name: str, text: str, traceback: str = "") -> str:
    """Return an event as the line that `read_event` reads; of a long traceback it has the beginning and the end."""
    half = _MOST_OF_A_TRACEBACK // 2
    if len(traceback) > 2 * half:
        traceback = f"{traceback[:half]}\n[...]\n{traceback[-half:]}"
    return json.dumps({"event": name, "text": text} | ({"traceback": traceback} if traceback else {}))


def read_event(line: str) -> Event | None:
    """Return the event that a line holds; None for any other line."""
    if not line.startswith('{"event": '):
        return None
    try:
        content = json.loads(line)
        return Event(str(content["event"]), str(content["text"]), str(content.get("traceback", "")))
    except (ValueError, LookupError, TypeError):
        return None
