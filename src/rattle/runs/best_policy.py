"""The best policy of a run: kept next to the newest, since learning can get worse again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.runs.checkpoint import Checkpoint
from rattle.runs.episodes import EpisodeTracker

Weights = Mapping[str, NDArray[np.float32]]


class BestPolicy:
    """Remembers the weights of the version whose episodes, or evaluation, had the highest mean return so far."""

    def __init__(self, weights: Weights) -> None:
        """`weights` are those that play first."""
        self.mean_return: float | None = None
        self.version: int | None = None
        self._weights: Weights = {}
        self._played = weights  # by the version before the next update
        self._given: int | None = None

    def remember(self, version: int, tracker: EpisodeTracker, next_weights: Weights) -> None:
        """Look at the episodes that `version` has ended; `next_weights` play from now on."""
        reached = tracker.mean_return
        if reached is not None and tracker.is_representative:
            self.judge(version, reached, self._played)
        self._played = next_weights

    def judge(self, version: int, mean_return: float, weights: Weights) -> None:
        """Keep the weights of a version if its mean return is the highest so far."""
        if self.mean_return is None or mean_return > self.mean_return:
            self.mean_return, self.version, self._weights = mean_return, version, weights

    def new(self) -> tuple[int, Weights] | None:
        """Return the best version and its weights, None where there is none or they were returned before."""
        if self.version is None or self.version == self._given:
            return None
        self._given = self.version
        return self.version, self._weights

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights, which nobody changes."""
        return dict(self._weights)

    def numbers(self) -> dict[str, Any]:
        """Return what goes into a checkpoint, and the columns of `runs`, in addition to the weights."""
        return {"best_mean_return": self.mean_return, "best_policy_version": self.version}

    def restore(self, checkpoint: Checkpoint, weights: Weights) -> None:
        """Continue where a checkpoint was taken; `weights` are those that play next."""
        self._played = weights
        self.mean_return = checkpoint.numbers.get("best_mean_return")
        self.version = checkpoint.numbers.get("best_policy_version")
        self._weights = checkpoint.part("best")
