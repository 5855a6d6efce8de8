"""Conditions on columns and settings of runs, such as `algorithm.learning_rate > 0.001, env.width = 20`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from rattle.services.dashboard.source import DashboardError, Run
from rattle.text import one_line

_CONDITION: Final = re.compile(r"\s*([\w.\-]+)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*")
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

    def holds(self, run: Run) -> bool:
        found = run.value(self.name)
        if found is None:
            return self.compare is operator.ne
        number, wanted = as_number(found), as_number(self.wanted)
        if number is not None and wanted is not None:
            return self.compare(number, wanted)
        return self.compare(str(found), self.wanted)


def conditions(text: str) -> Callable[[Run], bool]:
    """Return what says whether a run meets all conditions, which commas part; raises DashboardError for others."""
    found = []
    for part in filter(str.strip, text.split(",")):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise DashboardError(
                f"'{one_line(part.strip(), 100)}' is no condition: write SETTING, one of {' '.join(_COMPARES)}, "
                "and a value, such as algorithm.learning_rate > 0.001"
            )
        found.append(_Condition(match[1], _COMPARES[match[2]], match[3]))
    return lambda run: all(condition.holds(run) for condition in found)


def as_number(value: object) -> float | None:
    """Return a value as a number; None where it is none."""
    try:
        return float(str(value).replace("_", ""))
    except ValueError:
        return None
