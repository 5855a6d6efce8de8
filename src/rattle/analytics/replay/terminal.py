"""Episodes animated in a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.replay.episodes import Episode
from rattle.analytics.replay.view import ReplayView
from rattle.analytics.replay.views import check_speed, view_of

if TYPE_CHECKING:
    from rich.console import Console


def play(episode: Episode, *, agent: int = 0, fps: float = 20.0, console: Console | None = None) -> None:
    """Show an episode from the side of one agent, `fps` ticks a second; Ctrl-C ends it.

    Without a terminal the frames are printed one below the other, without colours and waits. Raises AnalyticsError
    when the window is too small.
    """
    from rich.console import Console

    check_speed(fps)
    console = console or Console(highlight=False)
    view = view_of(episode, agent)
    if console.is_terminal and not console.is_dumb_terminal:
        _check_room(console, view)
        _animate(console, view, fps)
    else:
        for frame in range(view.frames):
            console.out(view.text(frame).plain, highlight=False)
            console.out("")


def _check_room(console: Console, view: ReplayView) -> None:
    columns, lines = view.size
    if console.width < columns or console.height < lines + 1:
        raise AnalyticsError(
            f"the window has {console.width} columns and {console.height} lines, the replay needs {columns} and "
            f"{lines + 1}: make it larger, or write a file with --gif"
        )


def _animate(console: Console, view: ReplayView, fps: float) -> None:
    from rattle.live import TerminalLive

    try:
        with TerminalLive(console=console, auto_refresh=False) as live:
            due = time.monotonic()
            for frame in range(view.frames):
                live.update(view.text(frame), refresh=True)
                now = time.monotonic()
                due = max(due, now - 1 / fps) + 1 / fps  # what was missed while it was stopped is not hurried through
                time.sleep(max(0.0, due - now))
    except KeyboardInterrupt:
        console.print()  # the last frame stays, and the prompt comes below it
