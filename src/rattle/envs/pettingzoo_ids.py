"""PettingZoo's parallel environments by the names of their modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rattle.envs.errors import EnvError
from rattle.envs.foreign import import_named


def find_parallel_env(module: str, *, allow_imports: bool = True) -> Callable[..., Any]:
    """Return what a module makes its parallel environments with.

    Raises EnvError when the module may not or cannot be imported, and when it has no `parallel_env`.
    """
    name = f"pettingzoo:{module}"
    found = import_named(name, module, "have a parallel_env", allow_imports=allow_imports)
    parallel_env = getattr(found, "parallel_env", None)
    if not callable(parallel_env):
        raise EnvError(f"'{name}' cannot be played: the module '{module}' has no parallel_env")
    return parallel_env  # type: ignore[no-any-return]
