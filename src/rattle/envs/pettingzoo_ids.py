"""PettingZoo's environments by the names of their modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rattle.envs.errors import EnvError
from rattle.envs.foreign import import_named


def find_env(module: str, *, allow_imports: bool = True) -> Callable[..., Any]:
    """Return what a module makes its environments with: its `parallel_env`, or else its `env`, whose agents take turns.

    Such a one is converted where its agents act on the same state all the same (`is_parallelizable`).

    Raises EnvError when the module may not or cannot be imported, and when it has neither.
    """
    name = f"pettingzoo:{module}"
    found = import_named(name, module, "have a parallel_env or an env", allow_imports=allow_imports)
    parallel_env = getattr(found, "parallel_env", None)
    if callable(parallel_env):
        return parallel_env  # type: ignore[no-any-return]
    turn_based = getattr(found, "env", None)
    if not callable(turn_based):
        raise EnvError(f"'{name}' cannot be played: the module '{module}' has no parallel_env and no env")

    def made(**settings: Any) -> Any:
        from pettingzoo.utils.conversions import aec_to_parallel

        env = turn_based(**settings)
        return aec_to_parallel(env) if env.metadata.get("is_parallelizable", False) else env

    return made
