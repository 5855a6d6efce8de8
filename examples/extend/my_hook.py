"""A hook: it ends a run when episodes have eaten enough, and reports how much the best of them has."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from rattle.extend import Hook, Metric


class StopAtFood(Hook):
    """Ends a run when the last episodes have eaten so much on average."""

    class Settings(BaseModel):
        """What stands beside `use`."""

        food: float = Field(60, gt=0, description="Food of an episode, on average, at which the run ends.")
        episodes: int = Field(100, ge=1, description="How many of the last episodes count.")

    metrics = (Metric("mean_food", "food", "Food of the last episodes, on average."),)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.eaten: deque[float] = deque(maxlen=settings.episodes)

    def on_episodes(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Look at the episodes of an update, and ask for the end when they are good enough."""
        self.eaten.extend(row["metrics"]["food"] for row in rows)
        mean = sum(self.eaten) / len(self.eaten)
        self.report(mean_food=mean)
        if len(self.eaten) == self.settings.episodes and mean >= self.settings.food:
            self.stop(f"the last {len(self.eaten)} episodes ate {mean:g} on average")

    def state(self) -> Mapping[str, Any]:
        return {"eaten": list(self.eaten)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.eaten.extend(state["eaten"])
