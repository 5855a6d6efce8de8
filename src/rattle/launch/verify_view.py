"""Shows a verification: how far it is, in a terminal, and the result, as lines or as one JSON object."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rattle.launch.notes import Note, Warnings
from rattle.launch.verify_report import Outcome, VerifyReport
from rattle.launch.view import Picture
from rattle.runs.progress import Summary
from rattle.trainer.display import print_line

if TYPE_CHECKING:
    from rattle.live import TerminalLive


class QuietView:
    """A line on stderr that says how far a run is, if that is a terminal; warnings go above it."""

    def __init__(self, title: str, ticks: int) -> None:
        self._title = title
        self._ticks = ticks
        self._warnings = Warnings()
        self._live: TerminalLive | None = None

    def start(self, run_id: str, run_dir: str, resumed_at: int | None) -> None:
        """Begin."""
        from rich.console import Console

        from rattle.live import TerminalLive

        console = Console(stderr=True)
        if console.is_terminal:
            self._live = TerminalLive(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
            self._live.start()

    def note(self, note: Note) -> None:
        """Print what is worth a warning to stderr."""
        self._warnings.print(note)

    def update(self, picture: Picture) -> None:
        """Show where the run stands."""
        from rich.text import Text

        if self._live is not None:
            self._live.update(Text(self.line(picture), no_wrap=True, overflow="ellipsis"), refresh=True)

    def line(self, picture: Picture) -> str:
        """Return where the run is in a line."""
        ready = sum(watched.phase == "ready" for watched in picture.services)
        services = f"{ready} of {len(picture.services)} services ready"
        if picture.ticks is None:
            return f"{self._title}: {services}"
        tick, speed = picture.ticks
        return f"{self._title}: tick {min(tick, self._ticks):,} of {self._ticks:,}, {speed:,.0f} ticks/s, {services}"

    def finish(self, summary: Summary | None) -> None:
        """Take the line down."""
        if self._live is not None:
            self._live.stop()


class Reporter:
    """Says the result of each run and of all of them."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._count = 0

    def begin(self, number: int, runs: int, ticks: int) -> QuietView:
        """Return what shows the next run."""
        return QuietView(f"run {number} of {runs}", ticks)

    def ended(self, outcome: Outcome) -> None:
        """Say the result of a run."""
        self._count += 1
        if not self._as_json:
            print_line(f"run {self._count}: {outcome.line()}")

    def stopped(self, number: signal.Signals) -> None:
        """Say that there is nothing to compare."""
        sys.stderr.write(f"stopped by {number.name}: the runs were not compared\n")

    def conclude(self, report: VerifyReport, kept: Path | None) -> None:
        """Say the result of all, and where the runs are."""
        if self._as_json:
            print_line(json.dumps({**report.as_dict(), "kept": None if kept is None else str(kept)}))
            return
        for line in report.lines():
            print_line(line)
        if kept is not None:
            print_line(f"the runs are kept in {kept}")
