"""The error base class of the telemetry package."""

from __future__ import annotations

from rattle.errors import RattleError


class TelemetryError(RattleError):
    """What is said of a broker or a store makes no sense."""
