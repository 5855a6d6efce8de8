"""Spaces of observations and actions: everything that code elsewhere must know of a kind is a class here.

To add a kind, write its class in `observations` and name it in `parts.ObservationSpace`, or in `actions` and name it in
`actions.ActionSpace`.
"""

from rattle.samples.spaces.actions import (
    MOST_NUMBERS,
    Actions,
    ActionSpace,
    BoxSpace,
    DiscreteSpace,
    MultiDiscreteSpace,
    SquashedBoxSpace,
    read_action_space,
)
from rattle.samples.spaces.distributions import Categorical, Categoricals, DiagonalNormal, Distribution
from rattle.samples.spaces.observations import (
    MOST_STATES,
    ArraySpace,
    CodeSpace,
    FloatSpace,
    Observations,
)
from rattle.samples.spaces.parts import MaskSpace, ObservationSpace, Part, PartsSpace, read_observation_space
from rattle.samples.spaces.space import MOST_CODES, Space

__all__ = [
    "MOST_CODES",
    "MOST_NUMBERS",
    "MOST_STATES",
    "ActionSpace",
    "Actions",
    "ArraySpace",
    "BoxSpace",
    "Categorical",
    "Categoricals",
    "CodeSpace",
    "DiagonalNormal",
    "DiscreteSpace",
    "Distribution",
    "FloatSpace",
    "MaskSpace",
    "MultiDiscreteSpace",
    "ObservationSpace",
    "Observations",
    "Part",
    "PartsSpace",
    "Space",
    "SquashedBoxSpace",
    "read_action_space",
    "read_observation_space",
]
