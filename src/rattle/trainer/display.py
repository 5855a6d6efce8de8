"""Displays: a live view in a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from rattle.output import silence, write_line
from rattle.runs.progress import Display, Progress, Summary

if TYPE_CHECKING:
    from rich.table import Table

LIVE_SECONDS = 0.25
LINE_SECONDS = 5.0
JSON_SECONDS = 1.0

#: A terminal needs so many columns for figures side by side.
_TWO_COLUMNS = 60


def choose_display(*, as_json: bool) -> Display:
    """Return the display that fits: JSON when asked for, live in a terminal, plain lines elsewhere."""
    if as_json:
        return JsonDisplay()
    return LiveDisplay() if can_redraw(sys.stdout) else PlainDisplay()


def can_redraw(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can draw over what it has shown."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


@contextmanager
def eval_progress(max_ticks: int) -> Iterator[Callable[[int, float], None] | None]:
    """Give the block what shows ticks and ended episodes in one line on stderr; None where that is no terminal."""
    if not can_redraw(sys.stderr):
        yield None
        return
    throttle = Throttle(LIVE_SECONDS)

    def show(tick: int, ended: float) -> None:
        if throttle.ready():
            sys.stderr.write(f"\r\x1b[Ktick {tick:,} of at most {max_ticks:,}, {ended:.0%} ended"[: _columns() + 3])
            sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _columns() -> int:
    return shutil.get_terminal_size().columns


def print_line(line: str) -> None:
    """Print a line; where nobody reads any more (a closed pipe, a full disk) fall silent, and let the run continue."""
    try:
        write_line(line)
    except OSError:
        silence()


class Throttle:
    """Lets something through at most once in a while, the first time at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def ready(self) -> bool:
        """Whether it is time for the next; the wait for the one after begins if so."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


class JsonDisplay:
    """One JSON object a line; the last is the summary."""

    def __init__(self) -> None:
        self._throttle = Throttle(JSON_SECONDS)

    def start(self, run_id: str, run_dir: str, resumed_at: int | None) -> None:
        """Print the run's name and place."""
        self._print({"event": "started", "run_id": run_id, "run_dir": run_dir, "resumed_at_update": resumed_at})

    def update(self, progress: Progress) -> None:
        """Print where the run stands, at most once a second."""
        if self._throttle.ready():
            self._print({"event": "progress", **asdict(progress)})

    def finish(self, summary: Summary | None) -> None:
        """Print the summary."""
        if summary is not None:
            self._print({"event": "summary", **summary.as_dict()})

    @staticmethod
    def _print(content: dict[str, Any]) -> None:
        print_line(json.dumps(content))


class PlainDisplay:
    """A line every few seconds."""

    def __init__(self) -> None:
        self._throttle = Throttle(LINE_SECONDS)

    def start(self, run_id: str, run_dir: str, resumed_at: int | None) -> None:
        """Print the run's name and place."""
        self._print(headline(run_id, run_dir, resumed_at))

    def update(self, progress: Progress) -> None:
        """Print where the run stands, at most once in five seconds."""
        if self._throttle.ready():
            self._print("  ".join(f"{name} {value}" for name, value in figures(progress)))

    def finish(self, summary: Summary | None) -> None:
        """Print the summary."""
        if summary is not None:
            self._print(closing(summary))

    @staticmethod
    def _print(line: str) -> None:
        print_line(line)


class LiveDisplay:
    """A table that is drawn over itself four times a second."""

    def __init__(self) -> None:
        from rich.console import Console

        from rattle.live import TerminalLive

        self._console = Console()
        self._live = TerminalLive(console=self._console, auto_refresh=False, transient=False)
        self._throttle = Throttle(LIVE_SECONDS)
        self._last: Progress | None = None

    def start(self, run_id: str, run_dir: str, resumed_at: int | None) -> None:
        """Print the run's name and place, and open the live view below."""
        print_line(headline(run_id, run_dir, resumed_at))
        self._live.start()

    def update(self, progress: Progress) -> None:
        """Draw where the run stands, at most four times a second."""
        self._last = progress
        if self._throttle.ready():
            self._live.update(progress_table(figures(progress), progress.fraction), refresh=True)

    def finish(self, summary: Summary | None) -> None:
        """Leave the last figures on the screen and print the summary below."""
        if self._last is not None:
            self._live.update(progress_table(figures(self._last), self._last.fraction), refresh=True)
        self._live.stop()
        if summary is not None:
            print_line(closing(summary))


def progress_table(shown: Sequence[tuple[str, str]], fraction: float | None) -> Table:
    """Return names and values in two columns, and a bar below where something limits the run."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    columns = _columns()
    if columns < _TWO_COLUMNS:
        narrow = Table.grid(padding=(0, 2))
        for name, value in shown:
            narrow.add_row(name, value)
        if fraction is not None:
            narrow.add_row("done", f"{fraction:.0%}")
        return narrow
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="dim")
    table.add_column(min_width=12)
    table.add_column(justify="right", style="dim")
    table.add_column(min_width=12)
    half = (len(shown) + 1) // 2
    for left, right in zip(shown[:half], [*shown[half:], ("", "")], strict=False):
        table.add_row(left[0], left[1], right[0], right[1])
    if fraction is not None:
        outer = Table.grid()
        outer.add_row(table)
        outer.add_row(ProgressBar(total=1.0, completed=fraction, width=58))
        return outer
    return table


def figures(progress: Progress) -> list[tuple[str, str]]:
    """Return where a run stands as names and values."""
    return [
        ("steps", f"{progress.env_steps:,}"),
        ("steps/s", f"{progress.env_steps_per_second:,.0f}"),
        ("updates", f"{progress.updates:,}"),
        ("time", clock(progress.seconds)),
        ("left", "-" if progress.seconds_left is None else clock(progress.seconds_left)),
        ("mean return", number(progress.mean_return)),
        ("mean length", number(progress.mean_episode_length)),
        *([] if progress.evaluation_return is None else [("evaluation", number(progress.evaluation_return))]),
        *((name.replace("_", " "), short(value)) for name, value in progress.metrics.items()),
    ]


def short(value: float) -> str:
    """Return a number with four digits that count."""
    return f"{value:.4g}"


def number(value: float | None) -> str:
    """Return a number with two decimals, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def clock(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def headline(run_id: str, run_dir: str, resumed_at: int | None) -> str:
    """Return a line that says which run begins or continues."""
    if resumed_at is None:
        return f"run {run_id} in {run_dir}"
    return f"run {run_id} in {run_dir}, resumed at update {resumed_at}"


def closing(summary: Summary) -> str:
    """Return some lines on the result of a run."""
    best = ""
    if summary.best_policy_version is not None:
        best = (
            f"best: mean return {number(summary.best_mean_return)} with version {summary.best_policy_version:,}, "
            "kept as policy-best.safetensors\n"
        )
    return (
        f"{summary.status}: {summary.env_steps:,} steps in {clock(summary.seconds)} "
        f"({summary.env_steps_per_second:,.0f} steps/s), {summary.updates:,} updates, "
        f"mean return {number(summary.mean_return)}, mean length {number(summary.mean_episode_length)}\n"
        f"{best}policy sha256 {summary.policy_sha256}\n"
        f"stored in {summary.run_dir}"
    )
