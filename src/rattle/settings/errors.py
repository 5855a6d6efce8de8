"""The error base class of the settings package."""

from __future__ import annotations

from rattle.errors import RattleError


class SettingsError(RattleError):
    """An experiment's settings are wrong; the message names the key."""
