"""The error base class of the trainer package."""

from __future__ import annotations

from rattle.errors import RattleError


class TrainerError(RattleError):
    """A run cannot continue, or a policy cannot be evaluated."""
