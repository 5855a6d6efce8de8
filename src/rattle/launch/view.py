"""Shows a run of services: a live view in a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rattle.analytics.run_directory import RunDirectory
from rattle.launch.notes import Note, Warnings
from rattle.launch.run_status import ChaosSummary
from rattle.launch.sparkline import Sparkline
from rattle.launch.supervisor import Watched
from rattle.launch.ticking import Ticks
from rattle.runs.progress import Progress, Summary
from rattle.tls import tls_files
from rattle.trainer.display import (
    JSON_SECONDS,
    LINE_SECONDS,
    JsonDisplay,
    PlainDisplay,
    Throttle,
    can_redraw,
    closing,
    figures,
    headline,
    number,
    print_line,
    progress_table,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from rattle.services.utils.protos.training_pb2 import PolicyStatus

_SPARKLINE_WIDTH = 44
#: A run in which nothing has happened for longer is shown as standing still.
_STILL_SECONDS = 5.0
_COLOURS = {"ready": "green", "starting": "yellow", "restarting": "red"}


@dataclass(frozen=True)
class Picture:
    """What there is to show at one moment."""

    progress: Progress | None  # of the first policy; None before anything has been learnt
    policies: Mapping[str, PolicyStatus]
    services: Sequence[Watched]
    stopping: bool
    kills: int | None  # None where nothing is killed on purpose
    ticks: Ticks | None = None  # None where no Sync service has begun
    still_seconds: float = 0.0  # for how long nothing has happened

    @property
    def stands_still(self) -> bool:
        """Whether the last figures are no present ones any more."""
        return self.still_seconds >= _STILL_SECONDS

    @property
    def now(self) -> Progress | None:
        """Return where the run stands, with the speed that it has now."""
        if self.progress is None or not self.stands_still:
            return self.progress
        return replace(self.progress, env_steps_per_second=0.0)


class LaunchView(Protocol):
    """Shows a run of services to the user who started it."""

    def start(self, run_id: str, run_dir: str, resumed_at: int | None) -> None:
        """Say which run begins, or at which number of updates it continues."""

    def note(self, note: Note) -> None:
        """Show that something has happened to a service."""

    def update(self, picture: Picture) -> None:
        """Show where things stand."""

    def finish(self, summary: Summary | None) -> None:
        """Take the live view down and show the summary; None when the run has failed."""


def _how_to_ask(run_dir: str) -> list[str]:
    """Return how the services of a run with a token of its own are asked."""
    token = RunDirectory(Path(run_dir)).token
    header = f'"Authorization: Bearer $(cat {shlex.quote(str(token))})"'  # read from stdin: all see arguments
    files = tls_files()
    named = {"--cacert": files.authority, "--cert": files.certificate, "--key": files.private_key}
    tls = "".join(f"{option} {shlex.quote(path)} " for option, path in named.items() if path)
    return [f"ask its services with: echo {header} | curl {tls}-H @- URL"] if token.exists() else []


def choose_view(*, as_json: bool) -> LaunchView:
    """Return the view that fits: JSON when asked for, live in a terminal, plain lines elsewhere."""
    if as_json:
        return JsonView()
    return LiveView() if can_redraw(sys.stdout) else PlainView()


class JsonView:
    """The lines of `rattle train --json`; what happens to services goes to stderr."""

    def __init__(self) -> None:
        self._display = JsonDisplay()
        self._warnings = Warnings()
        self._ticks = Throttle(JSON_SECONDS)
        self._most = MostSteps()

    def start(self, run_id: str, run_dir: str, resumed_at: int | None) -> None:
        """Print the run's name and place."""
        self._display.start(run_id, run_dir, resumed_at)

    def note(self, note: Note) -> None:
        """Print what is worth a warning to stderr."""
        self._warnings.print(note)

    def update(self, picture: Picture) -> None:
        """Print where the run stands, and where its ticks do, each at most once a second."""
        if picture.now is not None:
            self._most.take(picture.now)
            self._display.update(picture.now)
        if picture.ticks is not None and self._ticks.ready():
            tick, speed = picture.ticks
            print_line(json.dumps({"event": "ticks", "tick": tick, "ticks_per_second": round(speed, 3)}))

    def finish(self, summary: Summary | None) -> None:
        """Print the summary."""
        self._display.finish(summary)


class PlainView:
    """A line every few seconds, and one for everything that happens to a service."""

    def __init__(self) -> None:
        self._display = PlainDisplay()
        self._warnings = Warnings()
        self._ticks = Throttle(LINE_SECONDS)
        self._most = MostSteps()

    def start(self, run_id: str, run_dir: str, resumed_at: int | None) -> None:
        """Print the run's name and place."""
        self._display.start(run_id, run_dir, resumed_at)
        for line in _how_to_ask(run_dir):
            print_line(line)

    def note(self, note: Note) -> None:
        """Print what has happened."""
        if note.level != "ERROR" and self._warnings.worth_showing(note):
            print_line(note.sentence)

    def update(self, picture: Picture) -> None:
        """Print where the run stands, and where its ticks do, each at most once in five seconds."""
        if picture.now is not None:
            self._most.take(picture.now)
            self._display.update(picture.now)
        if picture.ticks is not None and self._ticks.ready():
            print_line("  ".join(f"{name} {value}" for name, value in tick_figures(picture.ticks)))

    def finish(self, summary: Summary | None) -> None:
        """Print the summary."""
        self._display.finish(summary)
        for line in (*self._most.lines(summary), *_chaos(summary)):
            print_line(line)


class LiveView:
    """Figures, the services and the last warning, drawn over themselves."""

    def __init__(self) -> None:
        from rich.console import Console

        from rattle.live import TerminalLive

        self._console = Console()
        self._live = TerminalLive(console=self._console, auto_refresh=False, transient=False)
        self._returns = Sparkline(_SPARKLINE_WIDTH)
        self._warning = ""
        self._most = MostSteps()
        self._updates = -1  # of the newest point of the line of returns
        self._size: object = None
        self._headline = ""
        self._last: Picture | None = None

    def start(self, run_id: str, run_dir: str, resumed_at: int | None) -> None:
        """Print the run's name and place, and open the live view below."""
        self._headline = headline(run_id, run_dir, resumed_at)
        for line in (self._headline, *_how_to_ask(run_dir)):
            self._console.print(line, highlight=False, soft_wrap=True)
        self._live.start()

    def note(self, note: Note) -> None:
        """Keep the last warning, for the next picture."""
        if note.level == "WARNING":
            self._warning = note.sentence

    def update(self, picture: Picture) -> None:
        """Draw where things stand."""
        progress = picture.progress
        if progress is not None:
            self._most.take(progress)
            if progress.mean_return is not None and progress.updates != self._updates:
                self._returns.add(progress.mean_return)  # a point for each new state, not for each picture
            self._updates = progress.updates
        self._last = picture
        self._draw(picture)

    def finish(self, summary: Summary | None) -> None:
        """Leave the last figures on the screen and print the summary below."""
        if self._last is not None:
            self._draw(replace(self._last, stopping=True))
        self._live.stop()
        lines = [] if summary is None else [closing(summary)]
        for line in (*lines, *self._most.lines(summary), *_chaos(summary)):
            self._console.print(line, highlight=False, soft_wrap=True)

    def _draw(self, picture: Picture) -> None:
        from rich.console import Group

        if self._console.size != self._size:
            if self._size is not None:  # a terminal that was resized has wrapped what was drawn: begin with a clean one
                self._console.clear()
                self._console.print(self._headline, highlight=False, soft_wrap=True)
            self._size = self._console.size
        self._live.update(Group(*self._parts(picture)), refresh=True)

    def _parts(self, picture: Picture) -> Iterator[RenderableType]:
        from rich.text import Text

        ticks = [] if picture.ticks is None else tick_figures(picture.ticks)
        if picture.now is None:
            yield Text("waiting for the first update", style="dim")
            if ticks:
                yield Text("  ".join(f"{name} {value}" for name, value in ticks), style="dim")
        else:
            first = next(iter(picture.policies.values()))
            shown = [*figures(picture.now), ("policy age", f"{first.policy_age:.2f}"), *ticks]
            yield progress_table(shown, picture.now.fraction)
            yield Text.assemble(("    returns  ", "dim"), self._returns.line())
        if len(picture.policies) > 1:
            yield _policies_table(picture.policies)
        yield _services_table(picture.services, stopping=picture.stopping)
        if picture.stands_still and not picture.stopping:
            yield Text(f"standing still for {picture.still_seconds:.0f} s: the figures are the last known", "yellow")
        if picture.kills is not None:
            yield Text(f"killed on purpose: {picture.kills}", style="dim")
        if self._warning:
            yield Text(self._warning, style="yellow", no_wrap=True, overflow="ellipsis")


class MostSteps:
    """The most steps that were ever shown: a service that is started again continues from its last checkpoint."""

    def __init__(self) -> None:
        self._most = 0

    def take(self, progress: Progress) -> None:
        """Take what is shown."""
        self._most = max(self._most, progress.env_steps)

    def lines(self, summary: Summary | None) -> list[str]:
        """Return a line where the summary has fewer steps than were shown before, which says why."""
        if summary is None or summary.env_steps >= self._most:
            return []
        return [f"{self._most:,} steps were shown before: Training was started again from its last checkpoint"]


def _chaos(summary: Summary | None) -> list[str]:
    if not isinstance(summary, ChaosSummary):
        return []
    return [f"services killed {summary.kills} times, started again {summary.restarts} times"]


def tick_figures(ticks: Ticks) -> list[tuple[str, str]]:
    """Return where ticks stand as names and values."""
    return [("tick", f"{ticks.tick:,}"), ("ticks/s", f"{ticks.per_second:,.0f}")]


def state_of(watched: Watched, *, stopping: bool) -> str:
    """Return the state of a service in a word."""
    if stopping:
        return "stopping" if watched.alive else "stopped"
    return "restarting" if watched.phase == "dead" or (watched.phase == "starting" and watched.hello) else watched.phase


def _services_table(services: Sequence[Watched], *, stopping: bool) -> Table:
    from rich.table import Table

    table = Table("service", "state", "pid", "restarts", "address", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for watched in services:
        state = state_of(watched, stopping=stopping)
        cells = (str(watched.pid or "-"), str(watched.restarts), watched.address)
        table.add_row(watched.service.name, f"[{_COLOURS.get(state, 'dim')}]{state}[/]", *cells)
    return table


def _policies_table(policies: Mapping[str, PolicyStatus]) -> Table:
    from rich.table import Table

    table = Table(
        "policy", "state", "updates", "mean return", "age", box=None, header_style="dim", padding=(0, 2, 0, 0)
    )
    for name, status in policies.items():
        mean = number(status.mean_return if status.HasField("mean_return") else None)
        table.add_row(name, status.status, f"{status.policy_version:,}", mean, f"{status.policy_age:.2f}")
    return table
