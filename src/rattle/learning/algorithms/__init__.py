"""Algorithms: what a learner makes of a rollout. A new one is a file here, and a member of `BUILT_IN`."""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainValidator, SerializeAsAny

from rattle.envs.validation import OneOf
from rattle.learning.algorithms.a2c import A2C
from rattle.learning.algorithms.algorithm import Algorithm
from rattle.learning.algorithms.choosing import BUILT_IN, choose, find
from rattle.learning.algorithms.ppo import PPO
from rattle.learning.algorithms.reinforce import Reinforce

__all__ = ["A2C", "BUILT_IN", "PPO", "Algorithm", "AlgorithmSettings", "Reinforce"]

#: The section of settings of any algorithm, which its `id` names.
AlgorithmSettings = Annotated[Algorithm, PlainValidator(choose), SerializeAsAny(), OneOf(find)]
