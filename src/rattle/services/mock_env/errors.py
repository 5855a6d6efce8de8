"""The error base class of the mock environment service."""

from __future__ import annotations

from rattle.errors import RattleError


class MockEnvError(RattleError):
    """The service cannot be started as it was asked to."""
