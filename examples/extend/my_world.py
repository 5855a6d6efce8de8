"""An environment: many ponds at once, in NumPy. A frog that sits on the lily is paid."""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from rattle.extend import DiscreteSpace, FloatSpace, Worlds


class Pond(Worlds):
    """A frog on a line sees where the lily is, and jumps left, stays or jumps right."""

    class Settings(BaseModel):
        """What stands beside `id`."""

        size: int = Field(10, ge=2, description="How far from the middle the lily is at most.")
        ticks: int = Field(20, ge=1, description="Ticks of an episode.")

    metric_names = ("caught",)

    def spaces(self) -> tuple[FloatSpace, DiscreteSpace]:
        return FloatSpace(size=1), DiscreteSpace(n=3)

    def allocate(self) -> None:
        self.distance = np.zeros(self.num_worlds)
        self.tick = np.zeros(self.num_worlds, np.int64)

    def start(self, worlds: NDArray[np.int64]) -> None:
        self.distance[worlds] = np.rint((2 * self.random(worlds)[:, 0] - 1) * self.settings.size)
        self.tick[worlds] = 0
        self.observation[:, 0] = self.distance / self.settings.size

    def advance(self, action: NDArray[np.int64]) -> None:
        self.distance -= action - 1
        self.tick += 1
        caught = self.distance == 0
        self.metrics["caught"] += caught
        self.reward[:] = caught
        self.truncated[:] = self.tick == self.settings.ticks
        self.observation[:, 0] = self.distance / self.settings.size
