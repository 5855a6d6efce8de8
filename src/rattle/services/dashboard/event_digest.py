"""What the events of a run come to: the newest, how its services are, and the load of the machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np

from rattle.analytics.sketch import Sketch
from rattle.services.dashboard.source import MOST_EVENTS, Events, Happened, Health

#: Events that say what has become of a service, and what it is from then on.
_STATES: Final = {
    "service_started": "starting",
    "service_restarted": "starting",
    "service_ready": "ready",
    "service_moved": "ready",
    "service_died": "died",
    "service_killed": "killed",
    "service_given_up": "given up",
}
_LOAD: Final = "system_metrics"


class LogRow(msgspec.Struct, gc=False):
    """A row of `logs`."""

    time: datetime
    event: str
    level: str = "INFO"
    service: str = ""
    fields: str = "{}"


class EventDigest:
    """Takes rows of `logs` and keeps of them what is shown."""

    def __init__(self) -> None:
        self._newest: deque[Happened] = deque(maxlen=MOST_EVENTS)
        self._services: dict[str, Health] = {}
        self._load: dict[str, Sketch] = {}

    def add(self, rows: Sequence[LogRow]) -> None:
        """Take rows in the order of their times, as each process writes them."""
        load: dict[str, list[dict[str, float]]] = {}
        for row in rows:
            fields = _fields(row.fields)
            service = str(fields.pop("service", row.service))
            self._note(row, service)
            if row.event == _LOAD:
                numbers = {name: float(value) for name, value in fields.items() if isinstance(value, int | float)}
                load.setdefault(service, []).append({"time": row.time.timestamp(), **numbers})
            else:
                self._newest.append(Happened(row.time, row.level, service, row.event, fields))
        for service, samples in load.items():
            names = sorted(set().union(*samples))
            columns = {name: np.array([sample.get(name, np.nan) for sample in samples]) for name in names}
            self._load.setdefault(service, Sketch("time")).add(columns)

    def events(self) -> Events:
        """Return what has been taken so far."""
        return Events(
            sorted(self._newest, key=lambda happened: happened.time, reverse=True),
            [self._services[name] for name in sorted(self._services)],
            {service: sketch.series() for service, sketch in sorted(self._load.items())},
        )

    def _note(self, row: LogRow, service: str) -> None:
        health = self._services.setdefault(service, Health(service, row.time))
        health.last = max(health.last, row.time)
        health.state = _STATES.get(row.event, health.state)
        health.restarts += row.event == "service_restarted"
        health.warnings += row.level == "WARNING"
        health.errors += row.level in ("ERROR", "CRITICAL")


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        fields = text
    return fields if isinstance(fields, dict) else {"fields": fields}
