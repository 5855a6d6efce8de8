"""The error base class of the runs package."""

from __future__ import annotations

from rattle.errors import RattleError


class RunError(RattleError):
    """A run or its policy cannot be found, started, stored or resumed."""
