"""PettingZoo's environments by the names of their modules."""

from __future__ import annotations

import difflib
import pkgutil
import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from rattle.envs.errors import EnvError
from rattle.envs.foreign import import_named


def find_env(module: str, *, allow_imports: bool = True) -> Callable[..., Any]:
    """Return what a module makes its environments with: its `parallel_env`, or else its `env`, whose agents take turns.

    Such a one is converted where its agents act on the same state all the same (`is_parallelizable`).

    Raises EnvError when the module may not or cannot be imported, and when it has neither.
    """
    name = f"pettingzoo:{module}"
    try:
        found = import_named(name, module, "have a parallel_env or an env", allow_imports=allow_imports)
    except EnvError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}.") and (hint := _nearest_own(module)):
            raise EnvError(f"there is no module '{module}'{hint}") from error.__cause__
        raise
    parallel_env = getattr(found, "parallel_env", None)
    if callable(parallel_env):
        return parallel_env  # type: ignore[no-any-return]
    turn_based = getattr(found, "env", None)
    if not callable(turn_based):
        raise EnvError(
            f"'{name}' cannot be played: the module '{module}' has no parallel_env and no env{_nearest_own(module)}"
        )

    def made(**settings: Any) -> Any:
        from pettingzoo.utils.conversions import aec_to_parallel

        env = turn_based(**settings)
        return aec_to_parallel(env) if env.metadata.get("is_parallelizable", False) else env

    return made


def _nearest_own(module: str) -> str:
    """Return ': PettingZoo has ...' with its own module of the most similar name, or nothing."""
    package = find_spec("pettingzoo")
    names: dict[str, str] = {}
    for family in pkgutil.iter_modules((package and package.submodule_search_locations) or (), "pettingzoo."):
        folder = f"{getattr(family.module_finder, 'path', '')}/{family.name.rpartition('.')[2]}"
        for one in pkgutil.iter_modules([folder] if family.ispkg else (), f"{family.name}."):
            if re.search(r"_v\d+$", one.name):
                names[one.name.rpartition(".")[2]] = one.name
    close = difflib.get_close_matches(module.rpartition(".")[2], names, n=1, cutoff=0.7)
    return f": PettingZoo has 'pettingzoo:{names[close[0]]}'" if close else ""
