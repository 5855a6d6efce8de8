from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from rattle.runs.progress import Progress, Summary
from rattle.trainer.display import LiveDisplay, PlainDisplay, choose_display, figures, progress_table

METRICS = {"policy_loss": -0.01, "value_loss": 0.2, "entropy": 0.9}
PROGRESS = Progress(123_456, 5.0, 24_000.0, 12, 340, 1.5, 12.25, METRICS, 0.5, 5.0)


def test_the_newest_evaluation_is_a_figure_once_there_is_one() -> None:
    assert "evaluation" not in dict(figures(PROGRESS))
    assert dict(figures(replace(PROGRESS, evaluation_return=1.25)))["evaluation"] == "1.25"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("kind", "stream", "expected"),
    [
        ("xterm-256color", Terminal(), LiveDisplay),
        ("dumb", Terminal(), PlainDisplay),
        ("", Terminal(), PlainDisplay),
        ("xterm", io.StringIO(), PlainDisplay),
    ],
)
def test_only_terminals_that_can_draw_are_drawn_on(
    monkeypatch: pytest.MonkeyPatch, kind: str, stream: io.StringIO, expected: type
) -> None:
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setattr(sys, "stdout", stream)
    assert type(choose_display(as_json=False)) is expected


@pytest.mark.parametrize("columns", [28, 59, 60, 120])
def test_every_figure_is_readable_in_any_width(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = io.StringIO()
    Console(file=out, width=columns).print(progress_table(figures(PROGRESS), PROGRESS.fraction))
    for name, value in figures(PROGRESS):
        assert name in out.getvalue()
        assert value in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= columns


def test_lines_of_the_summary_are_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "28")
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    display = choose_display(as_json=False)
    display.start("a-run", "runs/a-run-with-a-long-name-that-is-wider-than-the-terminal", None)
    display.finish(Summary("a-run", "runs/a-run", "finished", 4, 1.0, 4.0, 1, 1, 1.51, 9.0, 1, "f" * 64))
    assert "run a-run in runs/a-run-with-a-long-name-that-is-wider-than-the-terminal\n" in out.getvalue()
    assert "mean return 1.51, mean length 9.00\n" in out.getvalue()
