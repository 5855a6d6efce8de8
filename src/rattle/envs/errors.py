"""The error base class of the environments package."""

from __future__ import annotations

from rattle.errors import RattleError


class EnvError(RattleError):
    """An environment is unknown, badly configured or was handed a wrong array."""


class WorldsLost(EnvError):
    """Worlds that live elsewhere were lost with their episodes; they have begun again, with other episodes."""


class EnvironmentFailed(EnvError):
    """An environment that is played elsewhere has failed; its worlds are lost, and others would fail alike."""


class CannotReplay(EnvError):
    """Stored worlds cannot be played again to where they were stored; the worlds are as they were before."""


class NotImported(EnvError):
    """A name that a stranger gave wants a module that this process has not imported."""


class UnknownEnvironment(EnvError):
    """No environment has this name here; a server may know it."""
