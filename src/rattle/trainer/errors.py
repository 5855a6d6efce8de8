"""The error base class of the trainer package."""

from __future__ import annotations

from rattle.errors import RattleError


class TrainerError(RattleError):
    """A run cannot be started, resumed or gone on with."""


class SettingsError(TrainerError):
    """An experiment's settings are wrong; the message names the key."""
