"""Every environment by its name, as experiments and services ask for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

from rattle.envs import user_worlds, wrappers
from rattle.envs.errors import EnvError, UnknownEnvironment
from rattle.envs.user_worlds import ENVPOOL_PREFIX, GYM_PREFIX, PETTINGZOO_PREFIX, find_class
from rattle.envs.validation import validated
from rattle.envs.vector import Vector, VectorWorlds
from rattle.text import nearest, one_line

#: Where environments of Rattle and Gymnasium are that are plain Python, and do nothing but raise errors.
_HARMLESS = ("rattle.envs.", "gymnasium.envs.classic_control.", "gymnasium.envs.toy_text.")

# What an environment needs is imported only when it is asked for: compiled code alone takes longer than `--help` may.


def make_worlds(
    environment: str,
    settings: Mapping[str, Any],
    num_worlds: int,
    seed: int,
    first_world: int = 0,
    *,
    allow_imports: bool = True,
    vector: Vector = "never",
) -> VectorWorlds:
    """Build worlds `first_world` to `first_world + num_worlds - 1` of `seed`, at the start of episode 0.

    `environment` is `snake`, whose settings are those of SnakeSettings, or `gym:ID` for a Gymnasium id, whose
    settings are handed to `gymnasium.make`, or `pettingzoo:MODULE` for the module's `parallel_env(**settings)`, or its
    `env` where it has no other, or `envpool:ID` for what EnvPool has. The ids `gym:MODULE:ID` and `pettingzoo:MODULE`
    import their module; `MODULE:CLASS` is a class of a user. With `allow_imports` false, for names and settings that
    come from a stranger's file, to import is refused, and so are settings that name code. `vector` says of Gymnasium
    ids whether they are stepped by the vector environment that they are registered with: "auto" where there is one.

    Raises EnvError with one clear line for an unknown environment, a bad
    setting, or an environment that the vector protocol cannot hold.
    """
    if not isinstance(environment, str) or not isinstance(settings, Mapping):
        raise EnvError(
            "worlds are made by the name of an environment and its settings by name, such as 'snake' and "
            f"{{'width': 20}}, got {one_line(repr(environment), 80)} and {one_line(repr(settings), 80)}"
        )
    if not isinstance(num_worlds, Integral):
        raise EnvError(f"num_worlds: a whole number from 1 on is wanted, got {one_line(repr(num_worlds), 80)}")
    own, around = _apart(environment, settings, allow_imports=allow_imports)
    settings = {**own, **around}
    if environment.startswith(GYM_PREFIX):
        return _make_gymnasium(
            environment.removeprefix(GYM_PREFIX), settings, num_worlds, seed, first_world, allow_imports, vector
        )
    if environment.startswith(ENVPOOL_PREFIX):
        from rattle.envs.gymnasium_vector import envpool_worlds

        envpool_id = environment.removeprefix(ENVPOOL_PREFIX)
        return envpool_worlds(envpool_id, settings, num_worlds, seed, first_world, allow_imports=allow_imports)
    if environment.startswith(PETTINGZOO_PREFIX):
        from rattle.envs.pettingzoo_worlds import PettingZooWorlds

        module = environment.removeprefix(PETTINGZOO_PREFIX)
        return PettingZooWorlds(module, settings, num_worlds, seed, first_world, allow_imports=allow_imports)
    if environment == "snake":
        from rattle.envs.snake.batch import SnakeWorlds
        from rattle.envs.snake.settings import SnakeSettings

        return SnakeWorlds(validated(SnakeSettings, settings, environment), num_worlds, seed, first_world)
    if (found := find_class(environment, allow_imports=allow_imports)) is not None:
        return user_worlds.make(found, settings, num_worlds, seed, first_world)
    raise _unknown(environment)


def make_groups(
    environment: str,
    settings: Mapping[str, Any],
    policies: Mapping[str, str],
    num_worlds: int,
    seed: int,
    first_world: int = 0,
    *,
    allow_imports: bool = True,
) -> dict[str, VectorWorlds]:
    """Build worlds as `make_worlds` does, whose agents several policies play; return the agents of each policy.

    `policies` maps patterns of agents' names to names of policies; see `rattle.envs.agent_groups`. Raises EnvError too
    for an environment whose agents have no names.
    """
    own, around = _apart(environment, settings, allow_imports=allow_imports)
    settings, made_by, module = {**own, **around}, None, environment.removeprefix(PETTINGZOO_PREFIX)
    if module == environment:
        found = find_class(environment, allow_imports=allow_imports)
        if found is None or user_worlds.face_of(found.cls) is not wrappers.PETTINGZOO:
            raise EnvError(f"policies: '{environment}' is no PettingZoo environment, and no other has agents by name")
        module, made_by, settings = found.name, found.cls, user_worlds.checked_settings(found, settings)
    from rattle.envs.agent_groups import make_groups as make

    return {
        **make(module, settings, policies, num_worlds, seed, first_world, allow_imports=allow_imports, made_by=made_by)
    }


def _make_gymnasium(
    gymnasium_id: str,
    settings: Mapping[str, Any],
    num_worlds: int,
    seed: int,
    first_world: int,
    allow_imports: bool,
    vector: Vector,
) -> VectorWorlds:
    if vector != "never":
        from rattle.envs.gymnasium_vector import gymnasium_worlds

        batch = gymnasium_worlds(
            gymnasium_id, settings, num_worlds, seed, first_world, vector=vector, allow_imports=allow_imports
        )
        if batch is not None:
            return batch
    from rattle.envs.gymnasium_worlds import GymnasiumWorlds

    return GymnasiumWorlds(gymnasium_id, settings, num_worlds, seed, first_world, allow_imports=allow_imports)


def is_harmless(environment: str, settings: Mapping[str, Any]) -> bool:
    """Whether an environment comes with Rattle or Gymnasium, and neither ends its process nor hangs."""
    if environment == "snake":
        return True
    if not environment.startswith(GYM_PREFIX) or wrappers.KEY in settings or "render_mode" in settings:
        return False
    import gymnasium

    if (spec := gymnasium.registry.get(environment.removeprefix(GYM_PREFIX))) is None or spec.additional_wrappers:
        return False
    places = [place for place in (spec.entry_point, spec.vector_entry_point) if place is not None]
    return all(isinstance(place, str) and place.startswith(_HARMLESS) for place in places)


def validate(
    environment: str, settings: Mapping[str, Any], *, allow_imports: bool = True, beside: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the full settings of an environment, defaults filled in, without building a world.

    Raises EnvError as `make_worlds` does. What an environment of Gymnasium or PettingZoo accepts shows only when it is
    built: here its name is looked up and its settings are returned as they are. `beside` are keys that are in the
    same section and are not the environment's: they are guessed for unknown keys too.
    """
    own, around = _apart(environment, settings, allow_imports=allow_imports)
    return {**_validate(environment, own, allow_imports, beside), **around}


def face_of(environment: str, *, allow_imports: bool = True) -> wrappers.Face | None:
    """Return which wrappers go around an environment; None where there are none. Raises EnvError as `validate` does."""
    if environment.startswith(GYM_PREFIX):
        return wrappers.GYMNASIUM
    if environment.startswith(PETTINGZOO_PREFIX):
        return wrappers.PETTINGZOO
    own = find_class(environment, allow_imports=allow_imports)
    return None if own is None else user_worlds.face_of(own.cls)


def _apart(
    environment: str, settings: Mapping[str, Any], *, allow_imports: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an environment's own settings, and the wrappers among them, checked."""
    own = {key: value for key, value in settings.items() if key != wrappers.KEY}
    given = settings.get(wrappers.KEY, ())
    if given in ((), []):
        return own, {}
    face = face_of(environment, allow_imports=allow_imports)
    if face is None:
        raise EnvError(
            f"'{environment}' steps all its worlds at once and takes no wrappers: they go around single worlds of "
            "Gymnasium and PettingZoo"
        )
    if not allow_imports:
        wrappers.check_harmless_wrappers(environment, given)
    return own, {wrappers.KEY: wrappers.checked(given, face, environment)}


def _validate(
    environment: str, settings: Mapping[str, Any], allow_imports: bool, beside: Iterable[str]
) -> dict[str, Any]:
    if environment.startswith(GYM_PREFIX):
        from rattle.envs.gymnasium_ids import find_spec

        find_spec(environment.removeprefix(GYM_PREFIX), allow_imports=allow_imports)
        return _unchecked(environment, settings, allow_imports)
    if environment.startswith(PETTINGZOO_PREFIX):
        from rattle.envs.pettingzoo_ids import find_env

        find_env(environment.removeprefix(PETTINGZOO_PREFIX), allow_imports=allow_imports)
        return _unchecked(environment, settings, allow_imports)
    if environment.startswith(ENVPOOL_PREFIX):
        return _unchecked(environment, settings, allow_imports)  # it takes many seconds to import
    if environment == "snake":
        from rattle.envs.snake.settings import SnakeSettings

        return validated(SnakeSettings, settings, environment, beside).model_dump()
    if (own := find_class(environment, allow_imports=allow_imports)) is not None:
        return user_worlds.validate(own, settings, beside)
    raise _unknown(environment)


def _unchecked(environment: str, settings: Mapping[str, Any], allow_imports: bool) -> dict[str, Any]:
    from rattle.envs.foreign import check_harmless

    if not allow_imports:
        check_harmless(environment, settings)
    return dict(settings)


def _unknown(environment: str) -> UnknownEnvironment:
    import gymnasium

    known = ["snake", *(GYM_PREFIX + gymnasium_id for gymnasium_id in gymnasium.registry)]
    hint = nearest(environment, known) or nearest(GYM_PREFIX + environment, known)
    return UnknownEnvironment(
        f"unknown environment '{environment}'{hint or '.'} There are 'snake', "
        f"'{GYM_PREFIX}ID' for every Gymnasium id, such as '{GYM_PREFIX}CartPole-v1', '{ENVPOOL_PREFIX}ID' for what "
        f"EnvPool has, and '{PETTINGZOO_PREFIX}MODULE' for every PettingZoo module; "
        "'MODULE:CLASS' is one of your own"
    )
