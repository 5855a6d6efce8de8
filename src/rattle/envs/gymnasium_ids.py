"""Gymnasium's registry, asked for one environment."""

from __future__ import annotations

from typing import Final

import gymnasium
from gymnasium.envs.registration import EnvSpec

from rattle.envs.errors import EnvError
from rattle.envs.foreign import import_named
from rattle.text import nearest

#: Modules that register the ids of well-known packages, by how these ids begin.
_MODULES: Final = {"ALE/": "ale_py", "BabyAI-": "minigrid", "MiniGrid-": "minigrid"}


def find_spec(gymnasium_id: str, *, allow_imports: bool = True) -> EnvSpec:
    """Return the registered spec of `NAME-vN`, or of `MODULE:NAME-vN` after importing the module.

    With `allow_imports` false only modules that this process has imported already are asked.

    Raises EnvError when the module may not or cannot be imported, or registers no such id. The version has to be given:
    the newest one may be another on the next machine.
    """
    module, _, name = gymnasium_id.rpartition(":")
    if module:
        role = f"register '{name}' with Gymnasium"
        import_named(f"gym:{gymnasium_id}", module, role, allow_imports=allow_imports)
    spec = gymnasium.registry.get(name)
    if spec is None:
        hint = nearest(name, gymnasium.registry)
        known = next((brings for begin, brings in _MODULES.items() if name.startswith(begin)), "MODULE")
        raise EnvError(
            f"Gymnasium has no environment '{name}'{hint or ': gymnasium.pprint_registry() lists what it has'}"
            + ("" if module else f" (ids of other packages need their module: 'gym:{known}:{name}')")
        )
    return spec
