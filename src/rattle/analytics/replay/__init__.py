"""Recorded episodes, listed and shown again: in the terminal, as GIF and as MP4."""

from rattle.analytics.replay.episodes import Episode, EpisodeSummary, json_lines, list_episodes, load_episode, table
from rattle.analytics.replay.files import save, save_pictures
from rattle.analytics.replay.terminal import play

__all__ = [
    "Episode",
    "EpisodeSummary",
    "json_lines",
    "list_episodes",
    "load_episode",
    "play",
    "save",
    "save_pictures",
    "table",
]
