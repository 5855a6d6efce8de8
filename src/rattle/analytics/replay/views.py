"""Which view shows an episode, and how fast."""

from __future__ import annotations

import math

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.replay.chart import ChartView
from rattle.analytics.replay.episodes import Episode
from rattle.analytics.replay.snake import SnakeView
from rattle.analytics.replay.view import ReplayView


def view_of(episode: Episode, agent: int) -> ReplayView:
    """Return how to show an episode from the side of one agent: boards where snakes were recorded, else strips."""
    if agent not in episode.agents:
        raise AnalyticsError(
            f"no agent {agent} in episode {episode.summary.id}: choose from {', '.join(map(str, episode.agents))}"
        )
    return SnakeView(episode, agent) if "bodies" in episode.states[0] else ChartView(episode, agent)


def check_speed(fps: float) -> None:
    """Raise AnalyticsError when that many ticks cannot be shown a second."""
    if not 0 < fps < math.inf:  # nor is NaN
        raise AnalyticsError(f"fps is the number of ticks shown a second, above 0: {fps:g} is none")
