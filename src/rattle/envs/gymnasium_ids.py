"""Gymnasium's registry, asked for one environment."""

from __future__ import annotations

import importlib

import gymnasium
from gymnasium.envs.registration import EnvSpec

from rattle.envs.errors import EnvError
from rattle.envs.validation import nearest


def find_spec(gymnasium_id: str) -> EnvSpec:
    """Return the registered spec of `NAME-vN`, or of `MODULE:NAME-vN` after importing the module.

    Raises EnvError when the module cannot be imported or registers no such id. The version has to be given: the
    newest one may be another on the next machine.
    """
    module, _, name = gymnasium_id.rpartition(":")
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


def _import(module: str, name: str) -> None:
    try:
        importlib.import_module(module)
    except (ImportError, TypeError) as error:  # TypeError: a relative name
        raise EnvError(
            f"cannot import '{module}', which should register '{name}' with Gymnasium ({error}): "
            "install the package that has it"
        ) from error
