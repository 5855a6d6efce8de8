"""Gymnasium's registry, asked for one environment."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from rattle.envs.errors import EnvError
from rattle.envs.validation import nearest

#: Settings by which `gymnasium.make` would take code, or the name of code, to run.
_NAMES_OF_CODE = frozenset({"entry_point", "vector_kwargs", "vectorization_mode", "wrappers"})


def find_spec(gymnasium_id: str, *, allow_imports: bool = True) -> EnvSpec:
    """Return the registered spec of `NAME-vN`, or of `MODULE:NAME-vN` after importing the module.

    With `allow_imports` false only modules that this process has imported already are asked.

    Raises EnvError when the module may not or cannot be imported, or registers no such id. The version has to be given:
    the newest one may be another on the next machine.
    """
    module, _, name = gymnasium_id.rpartition(":")
    if module and not allow_imports and module not in sys.modules:
        raise EnvError(
            f"'gym:{gymnasium_id}' names the module '{module}', which is not imported because a file says so: "
            "import it yourself, or name the experiment"
        )
    if module:
        _import(module, name)
    spec = gymnasium.registry.get(name)
    if spec is None:
        hint = nearest(name, gymnasium.registry)
        raise EnvError(
            f"Gymnasium has no environment '{name}'{hint or ': gymnasium.pprint_registry() lists what it has'}"
            + ("" if module else f" (ids of other packages need their module: 'gym:MODULE:{name}')")
        )
    return spec


def check_harmless(gymnasium_id: str, settings: Mapping[str, Any]) -> None:
    """Raise EnvError unless all settings are plain JSON values and none is a name by which code is handed over."""
    for name, value in settings.items():
        if name in _NAMES_OF_CODE:
            raise EnvError(f"'gym:{gymnasium_id}' may not be given '{name}' by a file: take it out of the settings")
        if not _is_json(value):
            kind = type(value).__name__
            raise EnvError(f"'gym:{gymnasium_id}' may not be given '{name}' by a file: {kind} is no plain JSON value")


def _is_json(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_json(entry) for entry in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(entry) for key, entry in value.items())
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _import(module: str, name: str) -> None:
    try:
        importlib.import_module(module)
    except (ImportError, TypeError) as error:  # TypeError: a relative name
        raise EnvError(
            f"cannot import '{module}', which should register '{name}' with Gymnasium ({error}): "
            "install the package that has it"
        ) from error
