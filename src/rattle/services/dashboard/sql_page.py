"""A query and its answer, as a table or as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rattle.analytics.derived_views import VIEWS
from rattle.analytics.schema import DERIVED_COLUMNS, TABLES
from rattle.errors import RattleError
from rattle.services.dashboard.charts import Chart, as_json, colour
from rattle.services.dashboard.source import MOST_ROWS, Column, DashboardError, QueryAnswer, RunSource
from rattle.services.dashboard.views import SqlView
from rattle.text import nearest

_EXAMPLES: Final = {
    "How good is each run, and how fast?": (
        "SELECT run_id, status, env_steps, round(env_steps_per_second) AS speed, round(mean_return, 2) AS mean_return\n"
        "FROM runs ORDER BY mean_return DESC"
    ),
    "Learning curves": "SELECT run_id, env_steps, mean_return FROM updates ORDER BY run_id, env_steps",
    "What went wrong?": (
        "SELECT time, run_id, service, event, fields FROM logs WHERE level IN ('WARNING', 'ERROR') ORDER BY time DESC"
    ),
    "How long are episodes?": (
        "SELECT intDiv(length, 20) * 20 AS ticks, count() AS episodes\nFROM episodes GROUP BY ticks ORDER BY ticks"
    ),
}
_NUMBERS: Final = ("Int", "UInt", "Float", "Decimal", "Bool")
_TIMES: Final = ("Date",)
_TEXTS: Final = ("String",)
_MANY_POINTS: Final = 60  # that are not marked each
_MOST_LINES: Final = 40


def context(source: RunSource, view: SqlView) -> dict[str, Any]:
    """Return what the page shows; what is wrong with the query is next to it."""
    answer, problem, chart = None, None, None
    if view.q.strip():
        try:
            answer = source.ask(view.q)
            chart = None if view.show == "table" else _chart(answer, view)
        except RattleError as error:
            problem = str(error)
    return {
        "answer": answer,
        "problem": problem,
        "chart": chart,
        "charts": as_json([chart] if chart else []),
        "examples": _EXAMPLES,
        "tables": {name: [*columns, *DERIVED_COLUMNS.get(name, ())] for name, columns in TABLES.items()},
        "all_views": list(VIEWS),
        "numbers": [column.name for column in answer.columns if _is(column, _NUMBERS)] if answer else [],
        "most_rows": MOST_ROWS,
    }


def _is(column: Column, kinds: Sequence[str]) -> bool:
    plain = column.type.removeprefix("LowCardinality(").removeprefix("Nullable(")
    return plain.startswith(tuple(kinds))


def _chart(answer: QueryAnswer, view: SqlView) -> Chart:
    """Return the answer as a chart: of the columns that are named, else of the first ones that can be drawn."""
    names = [column.name for column in answer.columns]
    for name in (view.x, *view.y, view.by):
        if name and name not in names:
            raise DashboardError(f"the answer has no column '{name}'{nearest(name, names)}: choose another")
    x = view.x or _first_x(answer.columns, view.show)
    by = view.by or next((column.name for column in answer.columns if _is(column, _TEXTS) and column.name != x), "")
    ys = view.y or [c.name for c in answer.columns if _is(c, _NUMBERS) and c.name not in (x, by)]
    if not x or not ys:
        raise DashboardError("a chart needs a column for each axis, and numbers to draw: it is shown as a table")
    chart = Chart("answer", ", ".join(ys))
    chart.axis("x", title={"text": x})
    at = names.index(x)
    for number, (name, rows, y) in enumerate(_lines(answer, names, by, ys)):
        chart.traces.append(_trace(view.show, name, number, [row[at] for row in rows], [row[y] for row in rows]))
    return chart


def _first_x(columns: Sequence[Column], show: str) -> str:
    """Return the first column that can be an axis: bars are next to names, too."""
    kinds = (*_NUMBERS, *_TIMES, *(_TEXTS if show == "bars" else ()))
    return next((column.name for column in columns if _is(column, kinds)), "")


def _lines(
    answer: QueryAnswer, names: list[str], by: str, ys: Sequence[str]
) -> list[tuple[str, list[Sequence[Any]], int]]:
    """Return the name, the rows and the place of the number of each line."""
    parts: dict[str, list[Sequence[Any]]] = {}
    for row in answer.rows:
        parts.setdefault(str(row[names.index(by)]) if by else "", []).append(row)
    lines = [
        (" ".join(filter(None, (part, y if len(ys) > 1 or not part else ""))), rows, names.index(y))
        for part, rows in parts.items()
        for y in ys
    ]
    if len(lines) > _MOST_LINES:
        raise DashboardError(
            f"{len(lines)} lines are too many for a chart: choose what tells at most {_MOST_LINES} apart"
        )
    return lines


def _trace(show: str, name: str, number: int, x: list[Any], y: list[Any]) -> dict[str, Any]:
    common = {"name": name, "x": x, "y": y}
    if show == "bars":
        return {**common, "type": "bar", "marker": {"color": colour(number)}}
    mode = "markers" if show == "points" else "lines" if len(x) >= _MANY_POINTS else "lines+markers"
    marker = {"color": colour(number), "size": 6}
    return {**common, "type": "scatter", "mode": mode, "marker": marker, "line": {"color": colour(number), "width": 2}}
