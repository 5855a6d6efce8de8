"""Events come to what is shown of them, in whatever order the files of processes are read."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from rattle.services.dashboard.event_digest import EventDigest, LogRow
from rattle.services.dashboard.source import MOST_EVENTS, Events
from tests.analytics.build import START


def row(event: str, second: float, writer: str = "actor", level: str = "INFO", **fields: Any) -> LogRow:
    return LogRow(START + timedelta(seconds=second), event, level, writer, "here", json.dumps(fields))


def digest(*parts: list[LogRow]) -> Events:
    kept = EventDigest()
    for part in parts:
        kept.add(part)
    return kept.events()


def test_the_newest_are_kept_whoever_is_read_last() -> None:
    many = [row("tick", number) for number in range(MOST_EVENTS + 50)]
    new, old = row("new", 10_000), row("old", -10_000)
    for parts in ([many, [new], [old]], [[new, old], many]):
        newest = digest(*parts).newest
        assert len(newest) == MOST_EVENTS
        assert [newest[0].event, newest[1].event, newest[-1].event] == ["new", "tick", "tick"]


def test_the_state_of_a_service_is_the_newest_that_was_told() -> None:
    launcher = [
        row("service_started", 0, "up", service="actor"),
        row("service_died", 5, "up", "WARNING", service="actor", reason="killed"),
        row("service_restarted", 6, "up", service="actor"),
    ]
    own = [row("serving", 1, address="here"), row("serving", 7, address="here")]
    for parts in ([launcher, own], [own, launcher]):
        health = digest(*parts).services
        assert [(one.service, one.state, one.restarts, one.warnings) for one in health] == [("actor", "ready", 1, 1)]


def test_load_is_of_services_and_of_their_machine() -> None:
    load = [
        row("system_metrics", second, name, process_cpu_percent=10.0 * second, cpu_percent=50.0, gpu_percent=None)
        for second in (1, 2)
        for name in ("actor", "learner")
    ]
    events = digest(load)
    assert set(events.load) == {"actor", "learner", "here"}
    assert events.load["actor"].mean["process_cpu_percent"].tolist() == [10, 20]
    assert events.load["here"].mean["cpu_percent"].tolist() == [50, 50]
    assert events.newest == []  # it is drawn, not listed


def test_fields_that_are_no_object_are_shown_as_they_are() -> None:
    strange = [LogRow(START, "odd", fields="[1, 2]"), LogRow(START, "odd", fields="{no JSON")]
    assert [dict(one.fields) for one in digest(strange).newest[::-1]] == [{"fields": [1, 2]}, {"fields": "{no JSON"}]
