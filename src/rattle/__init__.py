"""Rattle: distributed reinforcement learning whose runs can be repeated, resumed, queried and replayed."""

from importlib.metadata import version

__version__ = version("rattle")
