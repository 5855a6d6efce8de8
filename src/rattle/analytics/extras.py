"""Libraries that only some commands need, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from rattle.analytics.errors import AnalyticsError


def require(module: str, extra: str, purpose: str) -> Any:
    """Import and return a module of an optional extra; raises AnalyticsError with the command that installs it."""
    try:
        return import_module(module)
    except ImportError:
        raise AnalyticsError(f"{purpose} needs '{module}': pip install 'rattle[{extra}]'") from None
