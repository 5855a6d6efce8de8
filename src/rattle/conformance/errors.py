"""The error of the checker itself; what is wrong with a server is a result, not an error."""

from __future__ import annotations

from rattle.errors import RattleError


class ConformanceError(RattleError):
    """The checks cannot run: there is no server, or nothing that could be checked."""
