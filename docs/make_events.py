"""Make docs/events.md from the list of events."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args

from msgspec import structs

from rattle.events import GROUPS, Event

PAGE = Path(__file__).with_name("events.md")

INTRODUCTION = """# Events

Made from the list in `rattle.events` by `python docs/make_events.py`.

Everything that Rattle logs is one of these events. The column `event` of the table `logs` has the name, and `fields`
the fields, as JSON. Programs act on these, and not on the sentences, whose wording may change. In addition to its own
fields an event may have those of its context (`agent`, `policy_version`), `exception` and `traceback` if there was an
error, and `trace_id` and `span_id` if the process uses OpenTelemetry. See [logging](logging.md).
"""


def kind_of(annotation: Any) -> str:
    """Return a field's type in a word."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if type(None) in get_args(annotation):
        return f"{kind_of(parts[0])} or none"
    return "list of str" if parts else str(annotation.__name__)


def entry(kind: type[Event]) -> list[str]:
    """Return an event as lines."""
    fields = ", ".join(f"`{field.name}` ({kind_of(field.type)})" for field in structs.fields(kind))
    lines = [f"### `{kind.name}`", "", f"{inspect.getdoc(kind)} Level {kind.level}.", ""]
    lines += [f"Fields: {fields}.", ""] if fields else []
    return [*lines, f"> {kind.sentence}", ""]


def page() -> str:
    """Return the whole page."""
    lines = [INTRODUCTION]
    for title, kinds in GROUPS.items():
        lines += [f"## {title}", "", *(line for kind in kinds for line in entry(kind))]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
