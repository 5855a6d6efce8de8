"""Rattle: distributed reinforcement learning whose runs can be repeated, resumed, queried and replayed.

From Python: `rattle.train`, `find_run`, `load_policy`, `evaluate` and `make_worlds`; `rattle.python` describes them.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rattle.python import Evaluation, Policy, Progress, Run, evaluate, find_run, load_policy, make_worlds, train

__version__ = version("rattle")
__all__ = ["Evaluation", "Policy", "Progress", "Run", "evaluate", "find_run", "load_policy", "make_worlds", "train"]

# `import gymnasium, rattle` is enough for `gymnasium.make("rattle/Snake-v0")`. Gymnasium has no plug-ins to announce it
# by, and importing it from here would double the time that the command line takes to answer.
if "gymnasium" in sys.modules:
    import rattle.envs  # noqa: F401


def __getattr__(name: str) -> Any:
    """Import what `__all__` names when it is first used: the command line needs none of it to answer."""
    if name in __all__:
        return getattr(import_module("rattle.python"), name)
    raise AttributeError(f"module 'rattle' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
