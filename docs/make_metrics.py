"""Make docs/metrics.md from the numbers that services, algorithms and tables declare."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rattle.analytics.schema import DERIVED_COLUMNS, NAMES, TABLES, UNITS
from rattle.services.utils.measures import Measure, measures
from rattle.settings.reference import SECTIONS, metrics_of

PAGE = Path(__file__).with_name("metrics.md")
ANALYTICS = Path(__file__).with_name("analytics.md")

INTRODUCTION = """# Metrics

Every number that Rattle reports, with its unit and meaning. Made from the code by `python docs/make_metrics.py`.

- Services show numbers for Prometheus at `/metrics`. Histograms have the series `_bucket`, `_sum` and `_count`.
- Algorithms and hooks report numbers of each update: columns of the table `updates`, or keys of its column `metrics`.
- Tables hold numbers of runs, updates, evaluations, episodes and steps: [analytics.md](analytics.md) has all columns.

The dashboards in [deploy/grafana](../deploy/grafana/README.md) show most of them.
"""

_TITLES = {"utils": "All services over HTTP"}
_NUMBER = re.compile(r"U?Int\d+|Float\d+")


def of_services() -> Iterator[str]:
    """Yield the lines of the tables of services."""
    for package, found in measures().items():
        yield f"### {_TITLES.get(package, f'The {package.capitalize()} service')}"
        yield from ("", "| metric | kind | labels | unit | meaning |", "|---|---|---|---|---|")
        yield from map(_line, sorted(found, key=lambda measure: measure.shown_as))
        yield ""


def _line(measure: Measure) -> str:
    labels = ", ".join(f"`{label}`" for label in measure.labels) or "-"
    return f"| `{measure.shown_as}` | {measure.kind} | {labels} | {measure.unit} | {measure.meaning} |"


def of_algorithms() -> Iterator[str]:
    """Yield the lines of the table of what algorithms report, each number once with those that report it."""
    reporters: dict[tuple[str, str, str], list[str]] = {}
    for _, title, model in SECTIONS:
        table = metrics_of(model)
        for row in table.rows if table else ():
            reporters.setdefault(row, []).append(title.removeprefix("Algorithm "))
    yield from ("| metric | unit | meaning | reported by |", "|---|---|---|---|")
    for (name, unit, meaning), by in reporters.items():
        yield f"| `{name}` | {unit} | {meaning} | {', '.join(by)} |"
    yield ""


def of_tables() -> Iterator[str]:
    """Yield the lines of the tables of columns that hold numbers."""
    for table, columns in TABLES.items():
        numbers = [name for name, kind in columns.items() if _NUMBER.search(kind) and name in UNITS]
        if not numbers and table not in DERIVED_COLUMNS:
            continue
        meanings = _documented(table)
        yield from (f"### `{table}`", "", "| column | unit | meaning |", "|---|---|---|")
        for name in (*numbers, *DERIVED_COLUMNS.get(table, {})):
            yield f"| `{name}` | {UNITS[name]} | {meanings[name]} |"
        yield ""


def without_units() -> list[str]:
    """Return the columns of numbers that have no unit and name nothing."""
    return [
        f"{table}.{name}"
        for table, columns in TABLES.items()
        for name, kind in columns.items()
        if _NUMBER.match(kind.removeprefix("Nullable(")) and name not in UNITS and name not in NAMES
    ]


def _documented(table: str) -> dict[str, str]:
    """Return what docs/analytics.md says of a table's columns."""
    section = ANALYTICS.read_text().split(f"### `{table}`\n")[1].split("\n### ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| `.+?` \| (.+) \|$", section, re.MULTILINE))


def page() -> str:
    """Return the whole page."""
    lines = [
        INTRODUCTION,
        "## Services",
        "",
        *of_services(),
        "The Training service shows them where it has an HTTP port (`training.http_port`).",
        "",
        "## Updates",
        "",
        *of_algorithms(),
        "Hooks report numbers of their own, which `rattle settings module:Class` lists.",
        "",
        "## Tables",
        "",
        *of_tables(),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
