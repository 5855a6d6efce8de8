"""The error base class of the analytics package."""

from __future__ import annotations

from rattle.errors import RattleError


class AnalyticsError(RattleError):
    """A run cannot be found, read, written, asked or drawn."""
