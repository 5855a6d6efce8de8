"""The error base class of the policies package."""

from __future__ import annotations

from rattle.errors import RattleError


class PolicyError(RattleError):
    """A policy cannot be built, read or exported as asked."""
