"""The error base class of the learning package."""

from __future__ import annotations

from rattle.errors import RattleError
from rattle.extensions import ExtensionError


class LearningError(RattleError):
    """Learning cannot continue: a number is not finite, or a state does not fit."""


class WrongLoss(LearningError, ExtensionError):
    """The loss of a user's algorithm or its gradient is not finite: its code is to blame, or what was played."""
