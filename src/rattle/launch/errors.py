"""The error base class of the launch package."""

from __future__ import annotations

from rattle.errors import RattleError


class LaunchError(RattleError):
    """Services cannot be started or kept running, or what they run has failed."""
