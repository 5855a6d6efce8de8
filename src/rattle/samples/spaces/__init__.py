"""Spaces of observations and actions: everything that code elsewhere must know of a kind is a class here.

To add a kind, write its class in `observations` or `actions` and name it in `ObservationSpace` or `ActionSpace` there.
"""

from rattle.samples.spaces.actions import (
    MOST_NUMBERS,
    Actions,
    ActionSpace,
    BoxSpace,
    DiscreteSpace,
    read_action_space,
)
from rattle.samples.spaces.distributions import Categorical, DiagonalNormal, Distribution
from rattle.samples.spaces.observations import (
    CodeSpace,
    FloatSpace,
    Observations,
    ObservationSpace,
    read_observation_space,
)
from rattle.samples.spaces.space import MOST_CODES, Space

__all__ = [
    "MOST_CODES",
    "MOST_NUMBERS",
    "ActionSpace",
    "Actions",
    "BoxSpace",
    "Categorical",
    "CodeSpace",
    "DiagonalNormal",
    "DiscreteSpace",
    "Distribution",
    "FloatSpace",
    "ObservationSpace",
    "Observations",
    "Space",
    "read_action_space",
    "read_observation_space",
]
