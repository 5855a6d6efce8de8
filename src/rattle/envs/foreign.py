"""Environments that others wrote: their modules, their settings, and what to say when they cannot be made."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import gymnasium

from rattle.envs.errors import EnvError

#: What making an environment raises for settings that it does not take and packages that it misses.
MAKING_ERRORS = (ImportError, TypeError, ValueError, AssertionError, KeyError, gymnasium.error.Error)

#: Settings by which `gymnasium.make` would take code, or the name of code, to run.
_NAMES_OF_CODE = frozenset({"entry_point", "vector_kwargs", "vectorization_mode", "wrappers"})
#: Settings that would open windows on this machine.
_NAMES_OF_WINDOWS = frozenset({"render_mode"})


def import_named(environment: str, module: str, role: str, *, allow_imports: bool) -> ModuleType:
    """Return the module that an environment's name names, "which should" play its `role`.

    Raises EnvError when it cannot be imported, and with `allow_imports` false unless this process has imported it.
    """
    if not allow_imports and module not in sys.modules:
        raise EnvError(
            f"'{environment}' names the module '{module}', which is not imported because a file says so: "
            "import it yourself, or name the experiment"
        )
    try:
        return importlib.import_module(module)
    except (ImportError, TypeError, ValueError) as error:  # TypeError: a relative name; ValueError: an empty one
        raise EnvError(
            f"cannot import '{module}', which should {role} ({one_line(error)}): install the package that has it"
        ) from error


def check_harmless(environment: str, settings: Mapping[str, Any]) -> None:
    """Raise EnvError unless all settings are plain JSON values and none is a name by which code is handed over."""
    for name, value in settings.items():
        if name in _NAMES_OF_CODE | _NAMES_OF_WINDOWS:
            raise EnvError(f"'{environment}' may not be given '{name}' from outside: take it out of the settings")
        if not _is_json(value):
            kind = type(value).__name__
            raise EnvError(f"'{environment}' may not be given '{name}' from outside: {kind} is no plain JSON value")


def cannot_make(environment: str, settings: Mapping[str, Any], error: Exception) -> EnvError:
    """Return what to say about one of MAKING_ERRORS."""
    if isinstance(error, ImportError | gymnasium.error.DependencyNotInstalled):
        return EnvError(f"'{environment}' needs a package that is not installed: {one_line(error)}")
    given = ", ".join(f"{key}={value!r}" for key, value in settings.items()) or "its defaults"
    return EnvError(f"'{environment}' cannot be made with {given}: {one_line(error)}")


def one_line(error: Exception) -> str:
    """Return what an error says in one line, or its name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def _is_json(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_json(entry) for entry in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(entry) for key, entry in value.items())
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
