"""One snake world that waits to be reset, as environments that are not a batch do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.snake.settings import SnakeSettings


class OneWorld:
    """World number `world` of a seed, whose next episode begins with `reset` and not with the step that ends one.

    It plays the very episodes that the world plays in a batch. With `watched`, the last view before an episode's
    end is kept for `snapshot`.
    """

    def __init__(self, settings: SnakeSettings, world: int = 0, watched: bool = False) -> None:
        self.worlds = SnakeWorlds(settings, 1, first_world=world)
        self.over = True
        self._seeded = False
        self._watched = watched
        self._last_view: dict[str, Any] | None = None

    def reset(self, seed: int | None) -> int | None:
        """Start episode 0 of `seed`, or with None the next one; return the seed that is new, else None.

        The first reset without a seed draws a fresh one.
        """
        if seed is None and not self._seeded:
            seed = fresh_seed()
        if seed is not None or not self.over:  # a batch begins the next episode in the step that ends one
            self.worlds.reset(seed)
        self._seeded = True
        self.over = False
        self._last_view = None
        return None if seed is None else self.worlds.seed

    def step(self, action: NDArray[np.int64]) -> None:
        """Advance one tick with the actions (A,); raises EnvError when the episode is over."""
        if self.over:
            raise EnvError("no episode is in progress: call reset() before step()")
        view = self.worlds.snapshot(0) if self._watched else None
        episode = self.worlds.episode[0].item()
        self.worlds.step(action)
        self.over = self.worlds.episode[0].item() != episode
        self._last_view = view if self.over else None

    def observation(self) -> NDArray[np.uint8]:
        """Return a copy (A, cells) of what each snake sees, or saw last where the episode is over."""
        seen: NDArray[np.uint8] = self.worlds.final_observation if self.over else self.worlds.observation
        return seen.copy()

    def snapshot(self) -> dict[str, Any]:
        """Return the world as it stands; when its episode is over, as it stood before the last tick."""
        return self._last_view or self.worlds.snapshot(0)


def fresh_seed() -> int:
    """Return a seed that nobody chose, from the operating system's entropy."""
    return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
