"""The error base class of the learning package."""

from __future__ import annotations

from rattle.errors import RattleError


class LearningError(RattleError):
    """Learning cannot continue: a number is not finite, or a state does not fit."""
