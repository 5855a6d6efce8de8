"""The list of events: whole, without what nobody tells, and the only way in which anything is logged."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path

import pytest
from msgspec import structs

import rattle
from rattle.events import EVENTS, GROUPS, Event, LogEntry, as_event, read_line

SOURCES = Path(rattle.__file__).parent


def calls_of(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def modules() -> list[Path]:
    return [path for path in SOURCES.rglob("*.py") if "protos" not in path.parts and path.parent.name != "events"]


def test_every_event_of_the_list_is_told_somewhere() -> None:
    used = {name_of(call.func) for path in modules() for call in calls_of(path)}
    nodes = (node for path in modules() for node in ast.walk(ast.parse(path.read_text())))
    used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert {kind.__name__ for kind in EVENTS.values()} - used == set()


def test_nothing_is_logged_but_events_of_the_list() -> None:
    kinds = {kind.__name__ for kind in EVENTS.values()}
    for path in modules():
        for call in calls_of(path):
            if name_of(call.func) == "getLogger":
                assert path.name in ("logger.py", "broker.py", "connection.py"), f"{path} has a logger of its own"
            if name_of(call.func) == "emit" and isinstance(call.args[0], ast.Call):
                told = name_of(call.args[0].func)
                is_known = told in kinds or not told[:1].isupper()
                assert is_known, f"{path}:{call.lineno} tells {told}, which is not in the list"


def test_classes_of_events_elsewhere_are_none() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                assert "Event" not in map(name_of, node.bases), f"{path}: {node.name} belongs in the list"


def test_names_are_unique_words() -> None:
    assert sum(map(len, GROUPS.values())) == len(EVENTS)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in EVENTS)


@pytest.mark.parametrize("kind", EVENTS.values(), ids=EVENTS)
def test_sentences_hold_fields_that_there_are_and_events_say_what_they_mean(kind: type[Event]) -> None:
    named = {field for _, field, _, _ in string.Formatter().parse(kind.sentence) if field is not None}
    assert {name.partition("[")[0] for name in named} <= {field.name for field in structs.fields(kind)}
    assert (kind.__doc__ or "").rstrip().endswith(".")
    assert kind.__doc__ != Event.__doc__


def test_text_of_strangers_is_made_printable_in_sentences() -> None:
    event = EVENTS["worlds_lost"](error="gone\x1b[2J\n{seconds}" + "x" * 10_000)  # type: ignore[call-arg]
    assert str(event).startswith("gone [2J {seconds}x")
    assert len(str(event)) == 2000


def test_an_entry_is_read_as_it_was_written_and_is_printable_for_any_terminal() -> None:
    fields = {"error": "x", "a": [1], "\x9b2J": "\x1b[2J\x9b31m\u202e\u2028 é 😀 \U000e0001"}
    entry = LogEntry("2026-01-02", "ERROR", "env-0", "run_failed", "é\n", "mine", "r", "here", 7, fields)
    line = entry.line().decode()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert "é 😀" in line
    assert entry.row()["fields"].isprintable()
    read = read_line(line)
    assert read == entry
    assert as_event(entry, EVENTS) == EVENTS["run_failed"](error="x")  # type: ignore[call-arg]
    assert as_event(LogEntry("", "ERROR", "", "run_failed", "", "", "", "", 0, {"error": 5}), EVENTS) is None
    assert as_event(LogEntry("", "ERROR", "", "mine", "", "", "", "", 0, {}), EVENTS) is None
