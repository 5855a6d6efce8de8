"""What the events of a run come to: the newest, how its services are, and the load of the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np

from rattle.analytics.sketch import Sketch
from rattle.events.of_launch import (
    ServiceDied,
    ServiceGivenUp,
    ServiceKilled,
    ServiceMoved,
    ServiceReady,
    ServiceRestarted,
    ServiceStarted,
)
from rattle.events.of_services import Serving, Stopped, SystemMetrics
from rattle.services.dashboard.source import MOST_EVENTS, Events, Happened, ServiceHealth

#: Events that say what has happened to a service, and what it is from then on.
_STATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        ServiceStarted.name: "starting",
        ServiceRestarted.name: "starting",
        ServiceReady.name: "ready",
        ServiceMoved.name: "ready",
        ServiceDied.name: "died",
        ServiceKilled.name: "killed",
        ServiceGivenUp.name: "given up",
        Serving.name: "ready",
        Stopped.name: "stopped",
    }
)
#: Fields of a process; the others of the event are of its machine.
_OF_A_PROCESS: Final = "process_"


class LogRow(msgspec.Struct, gc=False):
    """A row of `logs`."""

    time: datetime
    event: str
    level: str = "INFO"
    service: str = ""
    host: str = ""
    fields: str = "{}"


class EventDigest:
    """Takes rows of `logs` and keeps of them what is shown."""

    def __init__(self) -> None:
        self._newest: list[Happened] = []  # the oldest first
        self._changed: dict[str, datetime] = {}  # when the state of a service changed
        self._services: dict[str, ServiceHealth] = {}
        self._load: dict[str, Sketch] = {}

    def add(self, rows: Sequence[LogRow]) -> None:
        """Take rows; each process writes its own in the order of their times, but one is read after the other."""
        load: dict[str, list[dict[str, float]]] = {}  # by service, or by host
        for row in rows:
            fields = _fields(row.fields)
            service = str(fields.pop("service", row.service))
            self._note(row, service)
            if row.event == SystemMetrics.name:
                for name, value in fields.items():
                    if isinstance(value, int | float):
                        whose = service if name.startswith(_OF_A_PROCESS) else row.host
                        load.setdefault(whose, []).append({"time": row.time.timestamp(), name: float(value)})
            else:
                self._newest.append(Happened(row.time, row.level, service, row.event, fields))
        self._newest = sorted(self._newest, key=lambda happened: happened.time)[-MOST_EVENTS:]
        for whose, samples in load.items():
            names = sorted(set().union(*samples))
            columns = {name: np.array([sample.get(name, np.nan) for sample in samples]) for name in names}
            self._load.setdefault(whose, Sketch("time")).add(columns)

    def events(self) -> Events:
        """Return what has been taken so far."""
        return Events(
            self._newest[::-1],
            [self._services[name] for name in sorted(self._services)],
            {whose: sketch.series() for whose, sketch in sorted(self._load.items())},
        )

    def _note(self, row: LogRow, service: str) -> None:
        health = self._services.setdefault(service, ServiceHealth(service, row.time))
        health.last = max(health.last, row.time)
        if row.event in _STATES and row.time >= self._changed.get(service, row.time):
            health.state, self._changed[service] = _STATES[row.event], row.time
        health.restarts += row.event == ServiceRestarted.name
        health.warnings += row.level == "WARNING"
        health.errors += row.level in ("ERROR", "CRITICAL")


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        fields = text
    return fields if isinstance(fields, dict) else {"fields": fields}
