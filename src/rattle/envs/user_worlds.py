"""Environments that are classes of users: of Gymnasium, one world or many, of PettingZoo, or of `Worlds`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv
from pydantic import BaseModel

from rattle.envs import wrappers
from rattle.envs.errors import EnvError, NotImported, UnknownEnvironment
from rattle.envs.foreign import asking
from rattle.envs.validation import check_free, constructor_model, own_model, settings_of, validated
from rattle.envs.vector import VectorWorlds
from rattle.extensions import ENVIRONMENT, Extension, ExtensionError, entry_point_names, load

# `Worlds`, which needs compiled code, is imported only when a user's class is asked for.

GYM_PREFIX = "gym:"
PETTINGZOO_PREFIX = "pettingzoo:"
ENVPOOL_PREFIX = "envpool:"


def find_class(environment: str, *, allow_imports: bool = True) -> Extension[Any] | None:
    """Return the class of a user that an environment's name names, None where it names something else.

    With `allow_imports` false only classes of modules that this process has imported are found.

    Raises UnknownEnvironment when there is no such class, and NotImported.
    """
    if environment == "snake" or environment.startswith((GYM_PREFIX, PETTINGZOO_PREFIX, ENVPOOL_PREFIX)):
        return None
    if ":" not in environment and environment not in entry_point_names(ENVIRONMENT):
        return None
    module = environment.partition(":")[0]
    if not allow_imports and (":" not in environment or module not in sys.modules):
        raise NotImported(f"'{environment}' names code, which is not imported because a file says so")
    try:
        return load(environment, ENVIRONMENT, _kinds)
    except ExtensionError as error:
        raise UnknownEnvironment(str(error)) from error.__cause__


def make(
    extension: Extension[Any], settings: Mapping[str, Any], num_worlds: int, seed: int, first_world: int
) -> VectorWorlds:
    """Build worlds of a user's class; raises EnvError."""
    name, cls = extension.name, extension.cls
    if _steps_many(cls):
        asking("make")
        try:
            with extension.calling("__init__"):
                worlds: VectorWorlds = cls(name, settings_of(extension, settings), num_worlds, seed, first_world)
                if not hasattr(worlds, "spec"):
                    raise ExtensionError(f"{extension.path}: __init__ does not call that of its base class")
                return worlds
        except ExtensionError as error:
            raise EnvError(str(error)) from error.__cause__
    given = checked_settings(extension, settings)
    if issubclass(cls, VectorEnv):
        from rattle.envs.gymnasium_vector import VectorEnvWorlds

        return VectorEnvWorlds(name, cls, given, num_worlds, seed, first_world)
    if issubclass(cls, gymnasium.Env):
        from rattle.envs.gymnasium_worlds import GymnasiumWorlds

        return GymnasiumWorlds(name, given, num_worlds, seed, first_world, made_by=cls)
    from rattle.envs.pettingzoo_worlds import PettingZooWorlds

    return PettingZooWorlds(name, given, num_worlds, seed, first_world, made_by=cls)


def checked_settings(extension: Extension[Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a user's class is made with, checked, and its wrappers; raises EnvError."""
    own = {key: value for key, value in settings.items() if key != wrappers.KEY}
    given = validated(settings_model(extension), own, extension.path).model_dump(exclude_unset=True)
    return given | {key: value for key, value in settings.items() if key == wrappers.KEY}


def face_of(cls: type) -> wrappers.Face | None:
    """Return which wrappers go around a user's environments; None for those that step many worlds at once."""
    if _steps_many(cls) or issubclass(cls, VectorEnv):
        return None
    return wrappers.GYMNASIUM if issubclass(cls, gymnasium.Env) else wrappers.PETTINGZOO


def validate(extension: Extension[Any], settings: Mapping[str, Any], beside: Iterable[str]) -> dict[str, Any]:
    """Return the settings of a user's class as plain values, with all defaults where its `Settings` have them."""
    if _steps_many(extension.cls):
        return settings_of(extension, settings, beside).model_dump(mode="json")
    model = settings_model(extension)
    check_free(extension, "__init__", [name for name, one in model.model_fields.items() if one.is_required()], beside)
    found = validated(model, settings, extension.path, beside)
    return found.model_dump(mode="json", exclude_unset=True)


def settings_model(extension: Extension[Any]) -> type[BaseModel]:
    """Return the settings of a class: its `Settings`, or what its constructor takes by name; raises ExtensionError."""
    cls = extension.cls
    if _steps_many(cls):
        return own_model(extension)
    return constructor_model(extension, of_others="num_envs" if issubclass(cls, VectorEnv) else None)


def _steps_many(cls: type) -> bool:
    from rattle.envs.worlds import Worlds

    return issubclass(cls, Worlds)


def _kinds() -> tuple[type, ...]:
    """Return the classes that environments are subclasses of; PettingZoo's where anybody has imported it."""
    from rattle.envs.worlds import Worlds

    found = sys.modules.get("pettingzoo")
    of_many = [getattr(found, name, None) for name in ("ParallelEnv", "AECEnv")]
    return (Worlds, gymnasium.Env, VectorEnv, *(each for each in of_many if each))
