"""What code of users builds on: base classes of their algorithms, environments, hooks and networks.

A class is named in an experiment as `module:Class`; docs/extending.md shows how. Names are imported when they are
first used, so a module of users costs little where its classes are only looked at.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rattle.envs.worlds import Worlds
    from rattle.learning.algorithms import A2C, PPO, Algorithm, Reinforce
    from rattle.learning.algorithms.algorithm import Batch, Loss, OneStep, Optimisation
    from rattle.learning.algorithms.policy_gradient import ActorCritic
    from rattle.learning.algorithms.v_trace import CorrectedActorCritic
    from rattle.learning.metrics import COMMON, Metric
    from rattle.policies.graph.network import Network, Spaces
    from rattle.samples.rollout import Rollout
    from rattle.samples.spaces import (
        ArraySpace,
        BoxSpace,
        CodeSpace,
        DiscreteSpace,
        Distribution,
        FloatSpace,
        MaskSpace,
        MultiDiscreteSpace,
        Part,
        PartsSpace,
    )
    from rattle.settings.hook import Hook, RunInfo

__all__ = [
    "A2C",
    "COMMON",
    "PPO",
    "ActorCritic",
    "Algorithm",
    "ArraySpace",
    "Batch",
    "BoxSpace",
    "CodeSpace",
    "CorrectedActorCritic",
    "DiscreteSpace",
    "Distribution",
    "FloatSpace",
    "Hook",
    "Loss",
    "MaskSpace",
    "Metric",
    "MultiDiscreteSpace",
    "Network",
    "OneStep",
    "Optimisation",
    "Part",
    "PartsSpace",
    "Reinforce",
    "Rollout",
    "RunInfo",
    "Spaces",
    "Worlds",
]

_MODULES = {
    "rattle.envs.worlds": ("Worlds",),
    "rattle.learning.algorithms": ("A2C", "PPO", "Algorithm", "Reinforce"),
    "rattle.learning.algorithms.algorithm": ("Batch", "Loss", "OneStep", "Optimisation"),
    "rattle.learning.algorithms.policy_gradient": ("ActorCritic",),
    "rattle.learning.algorithms.v_trace": ("CorrectedActorCritic",),
    "rattle.learning.metrics": ("COMMON", "Metric"),
    "rattle.policies.graph.network": ("Network", "Spaces"),
    "rattle.samples.rollout": ("Rollout",),
    "rattle.samples.spaces": (
        "ArraySpace",
        "BoxSpace",
        "CodeSpace",
        "DiscreteSpace",
        "Distribution",
        "FloatSpace",
        "MaskSpace",
        "MultiDiscreteSpace",
        "Part",
        "PartsSpace",
    ),
    "rattle.settings.hook": ("Hook", "RunInfo"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what `__all__` names."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'rattle.extend' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
