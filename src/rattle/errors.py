"""The root of every error that a user can cause and fix."""

from __future__ import annotations


class RattleError(Exception):
    """Say in one line what is wrong and what to do about it; the command line prints it without a traceback."""
