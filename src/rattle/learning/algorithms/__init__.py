"""Algorithms: what a learner makes of a rollout. A new one is a file here, and a member of `AlgorithmSettings`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rattle.learning.algorithms.a2c import A2C
from rattle.learning.algorithms.algorithm import Algorithm
from rattle.learning.algorithms.ppo import PPO
from rattle.learning.algorithms.reinforce import Reinforce

__all__ = ["A2C", "PPO", "Algorithm", "AlgorithmSettings", "Reinforce"]

AlgorithmSettings = Annotated[A2C | PPO | Reinforce, Field(discriminator="id")]
