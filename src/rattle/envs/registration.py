"""The ids under which Gymnasium finds Rattle's environments."""

from __future__ import annotations

import gymnasium

SNAKE_ID = "rattle/Snake-v0"


def register() -> None:
    """Register `rattle/Snake-v0` with Gymnasium, once; what plays it is imported when it is made.

    Gymnasium finds a package's environments when that package is imported (since 1.0 it loads no plugins), so
    `rattle.envs` calls this. Where only Gymnasium is imported, its `module:id` form imports the package too:
    `gymnasium.make_vec("rattle.envs:rattle/Snake-v0", num_envs=1024)`.
    """
    if SNAKE_ID in gymnasium.registry:
        return
    gymnasium.register(
        id=SNAKE_ID,
        entry_point="rattle.envs.snake.gymnasium_env:SnakeEnv",
        vector_entry_point="rattle.envs.snake.gymnasium_env:SnakeVectorEnv",
    )
