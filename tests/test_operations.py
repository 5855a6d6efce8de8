"""What docs/operations.md tells operators to look at exists: numbers of Prometheus, events, tables, results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rattle.analytics.query import rows
from rattle.events import EVENTS
from rattle.services.utils.measures import HistogramMeasure, measures
from tests.analytics.build import make_run, update_row, write_rows

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "operations.md"
SERVICES = REPOSITORY / "src" / "rattle" / "services"


def series() -> dict[str, set[str]]:
    """Return the labels of each series that services show."""
    found: dict[str, set[str]] = {}
    for measure in (one for of_service in measures().values() for one in of_service):
        ends = ("_bucket", "_sum", "_count", "") if isinstance(measure, HistogramMeasure) else ("",)
        for end in ends:
            found.setdefault(measure.shown_as + end, set()).update(measure.labels)
    return found


@pytest.mark.parametrize("page", [PAGE, *sorted(SERVICES.glob("*/README.md"))], ids=lambda page: page.parent.name)
def test_numbers_and_events_that_pages_name_exist(page: Path) -> None:
    text, known = page.read_text(), series()
    named = re.findall(r"\b(rattle_(?:env|inference|sync|ingest|request|refused|damaged)\w+)(?:\{(\w+)=)?", text)
    for name, label in named:
        assert name in known, f"{page}: services show no {name}"
        assert not label or label in known[name], f"{page}: {name} has no label {label}"
    for sentence in re.findall(r"\bevents? ((?:`\w+`(?:, | and )?)+)", text):
        for event in re.findall(r"`(\w+)`", sentence):
            assert event in EVENTS, f"{page}: there is no event {event}"
    if page == PAGE:
        assert len(named) > 20


def test_statements_have_answers(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one", status="running")
    write_rows(run, "updates", [update_row(run, version) for version in range(1, 4)])
    common = {"time": "2026-01-02T03:04:05Z", "experiment": "snake", "run_id": "one", "host": "a", "pid": 7}
    events = [
        {**common, "level": "WARNING", "service": "up", "event": "service_died", "fields": "{}"},
        {
            **common,
            "level": "INFO",
            "service": "up",
            "event": "system_metrics",
            "fields": '{"process_cpu_percent": 50}',
        },
    ]
    write_rows(run, "logs", events)
    statements = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(statements) == 4
    for statement in statements:
        found = rows(statement.replace("r.status = 'running'", "true"), [run])
        assert len(found) == 1, statement


def test_figures_of_the_sizing_table_are_those_of_the_results() -> None:
    """A figure is as in its result, or rounded: 9.1 M for 9.143 M and 1.8 M for 1,804,513."""
    table = PAGE.read_text().split("| what | figure | result |")[1].split("\n\n")[0]
    found = re.findall(r"^\| [^|]+ \| ([^|]+) \| \[\w+\]\(([^)]+)\) \|$", table, re.MULTILINE)
    assert len(found) >= 10
    for figure, target in found:
        result = (PAGE.parent / target).read_text()
        numbers = [float(text.replace(",", "")) for text in re.findall(r"\d[\d,]*(?:\.\d+)?", result)]
        for text, million in re.findall(r"(\d[\d,]*(?:\.\d+)?)( M\b)?", figure):
            wanted, digits = float(text.replace(",", "")), len(text.partition(".")[2])
            scales = (1, 1e-6) if million else (1,)
            assert any(round(number * scale, digits) == wanted for number in numbers for scale in scales), (
                text,
                target,
            )
