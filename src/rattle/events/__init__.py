"""The events of all packages: one list of what can happen, each with a name, a level, typed fields and a sentence.

Programs act on names and fields of events, never on the wording of a sentence. docs/events.md is made from this list.
"""

from __future__ import annotations

from types import ModuleType

from rattle.events import of_launch, of_lockstep, of_runs, of_services, of_telemetry
from rattle.events.entry import LogEntry, as_event, read_line
from rattle.events.event import (
    NUMBERS,
    About,
    Context,
    Event,
    Level,
    bind,
    bound,
    bound_fields,
    context,
    deaf_handlers,
    emit,
    taps,
)

__all__ = [
    "EVENTS",
    "GROUPS",
    "NUMBERS",
    "About",
    "Context",
    "Event",
    "Level",
    "LogEntry",
    "as_event",
    "bind",
    "bound",
    "bound_fields",
    "context",
    "deaf_handlers",
    "emit",
    "read_line",
    "taps",
]


def _events_of(module: ModuleType) -> tuple[type[Event], ...]:
    kinds = (kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__)
    return tuple(kind for kind in kinds if issubclass(kind, Event) and kind.sentence)


#: The events, by the title of the group that they are in.
GROUPS = {
    "Runs": _events_of(of_runs),
    "Services": _events_of(of_services),
    "Lockstep": _events_of(of_lockstep),
    "rattle up": _events_of(of_launch),
    "Telemetry": _events_of(of_telemetry),
}

#: All events by name.
EVENTS = {kind.name: kind for group in GROUPS.values() for kind in group}
