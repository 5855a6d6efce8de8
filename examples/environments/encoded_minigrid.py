"""A wrapper of MiniGrid: what each cell shows in numbers that a network can tell apart, and the mission's words."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, MultiBinary
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
from minigrid.wrappers import DictObservationSpaceWrapper

#: How many things, colours and states there are.
SIZES = len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)
#: The words of missions, by MiniGrid's own list.
WORDS = tuple(DictObservationSpaceWrapper.get_minigrid_words())


class Encoded(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Observes `image`, a 1 for what a cell shows, its colour and its state, and `mission`, a 1 for each word.

    MiniGrid's own image has bytes of up to 10, which a network for pictures would take for shades of black.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        height, width, _ = env.observation_space["image"].shape  # type: ignore[index]
        image = Box(0.0, 1.0, (height, width, sum(SIZES)), np.float32)
        self.observation_space = Dict({"image": image, "mission": MultiBinary(len(WORDS))})

    def observation(self, observation: Any) -> dict[str, Any]:
        cells = observation["image"]
        ones = [np.eye(size, dtype=np.float32)[cells[..., number]] for number, size in enumerate(SIZES)]
        said = observation["mission"].split()
        return {"image": np.concatenate(ones, axis=-1), "mission": np.array([word in said for word in WORDS], np.int8)}
