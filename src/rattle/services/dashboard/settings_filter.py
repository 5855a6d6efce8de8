"""Conditions on columns and settings of runs, such as `algorithm.learning_rate > 0.001, env.width = 20`."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from rattle.services.dashboard.source import DashboardError, RunRow
from rattle.text import one_line

_CONDITION: Final = re.compile(r"\s*([\w.\-]+)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*")
#: JSON strings, and all other signs one by one.
_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*"|.', re.DOTALL)
_COMPARES: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


class _Condition(NamedTuple):
    name: str
    compare: Callable[[Any, Any], bool]
    wanted: str

    def holds(self, run: RunRow) -> bool:
        found = run.value(self.name)
        if found is None:
            return self.compare is operator.ne
        number, wanted = as_number(found), as_number(self.wanted)
        if number is not None and wanted is not None:
            return self.compare(number, wanted)
        return self.compare(str(found), self.wanted)


def conditions(text: str) -> Callable[[RunRow], bool]:
    """Return what says whether a run meets all conditions, which commas part; raises DashboardError for others.

    Lists are JSON, and so is text in double quotes.
    """
    found = []
    for part in filter(str.strip, _parts(text)):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise DashboardError(
                f"'{one_line(part.strip(), 100)}' is no condition: write SETTING, one of {' '.join(_COMPARES)}, "
                "and a value, such as algorithm.learning_rate > 0.001"
            )
        found.append(_Condition(match[1], _COMPARES[match[2]], _as_setting(match[3])))
    return lambda run: all(condition.holds(run) for condition in found)


def _parts(text: str) -> Iterator[str]:
    """Split at the commas that are outside of lists and strings."""
    part, depth = "", 0
    for piece in _PIECE.findall(text):
        depth += (piece in "[{") - (piece in "]}")
        if piece == "," and depth <= 0:
            yield part
            part = ""
        else:
            part += piece
    yield part


def _as_setting(text: str) -> str:
    """Return a value as settings are written; what only begins like JSON stays as it is."""
    try:
        value = json.loads(text) if text.startswith(("[", '"')) else text
    except ValueError:
        return text
    return value if isinstance(value, str) else json.dumps(value)


def as_number(value: object) -> float | None:
    """Return a value as a number; None where it is none."""
    try:
        return float(str(value).replace("_", ""))
    except ValueError:
        return None
