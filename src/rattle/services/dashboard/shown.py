"""How values are written on pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from rattle.text import one_line

_PREFIXES: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_LONGEST_CELL: Final = 300
#: What stands where there is no value.
NOTHING: Final = "\N{EN DASH}"


def short(value: float | None) -> str:
    """Return a number in about four places, such as 3.456 M."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for size, prefix in _PREFIXES:
        if abs(value) >= size * 10 or (prefix != "k" and abs(value) >= size):
            return f"{value / size:.4g} {prefix}"
    return f"{value:.4g}" if value != int(value) else f"{int(value):,}"


def exact(value: object) -> str:
    """Return a number or a text as it is, None as a dash."""
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{value:.6g}"
    return one_line(value, _LONGEST_CELL)


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    first = next((place for place, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(
        f"{number} {unit}" for number, unit in parts[first : first + 2] if number or len(parts) - first == 1
    )


def moment(time: datetime | None) -> str:
    """Return a point in time, in UTC."""
    return NOTHING if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def cell(value: object) -> str:
    """Return a value of an answer, lists and maps as JSON."""
    if value is None:
        return "NULL"
    if isinstance(value, list | dict):
        return one_line(msgspec.json.encode(value).decode(), _LONGEST_CELL)
    return exact(value) if isinstance(value, float) else one_line(value, _LONGEST_CELL)


def fact(value: object) -> str:
    """Return a value of a run's row."""
    if isinstance(value, datetime):
        return f"{moment(value)} UTC"
    return cell(value)


FILTERS: Final[Mapping[str, Callable[[Any], str]]] = {
    "short": short,
    "exact": exact,
    "duration": duration,
    "moment": moment,
    "cell": cell,
    "fact": fact,
}
