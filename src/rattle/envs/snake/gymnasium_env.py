"""Snake as Gymnasium knows environments: `SnakeEnv` for one snake, `SnakeVectorEnv` for a batch."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.gymnasium_batch import activity_infos, as_rows, final_infos, spaces_of
from rattle.envs.seeds import check_seed
from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.snake.drawing import FRAMES_PER_SECOND, RENDER_MODES, check_render_mode, draw
from rattle.envs.snake.one_world import OneWorld, fresh_seed
from rattle.envs.snake.settings import SnakeSettings
from rattle.envs.validation import validated

Observation = NDArray[np.uint8]
Infos = dict[str, Any]


class SnakeEnv(gymnasium.Env[Observation, np.int64]):
    """One snake in a world of its own; its settings are those of SnakeSettings.

    Observations are uint8 (cells,), actions 0 forward, 1 right, 2 left. `reset(seed=s)` starts episode 0 of seed s in
    world number `world`, `reset()` the next episode, the first time of a fresh seed: the same episodes as that world
    plays in a batch. The info of the step that ends an episode holds `food`, the food eaten in it. Raises EnvError
    for bad settings and for a step where no episode is in progress.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it an instance's
        "render_modes": list(RENDER_MODES),
        "render_fps": FRAMES_PER_SECOND,
    }

    def __init__(self, render_mode: str | None = None, world: int = 0, **settings: Any) -> None:
        self.settings = validated(SnakeSettings, settings, "snake")
        if self.settings.num_snakes != 1:
            raise EnvError(
                "a gymnasium.Env holds one snake: for several make the batch (gymnasium.make_vec) or "
                "rattle.envs.snake.pettingzoo_env.parallel_env"
            )
        self.render_mode = check_render_mode(render_mode)
        self._world = OneWorld(self.settings, world, watched=render_mode is not None)
        self.observation_space, self.action_space = spaces_of(self._world.worlds.spec)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Infos]:
        """Start an episode; return the observation (cells,) and an empty info. Options are not used."""
        super().reset(seed=self._world.reset(seed))
        return self._world.observation()[0], {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, Infos]:
        """Advance one tick; return observation (cells,), reward, terminated, truncated and info."""
        self._world.step(as_rows(action, self._world.worlds.spec.action_space).reshape(-1))
        worlds = self._world.worlds
        info = {"food": worlds.final_metrics["food"][0].item()} if self._world.over else {}
        return (
            self._world.observation()[0],
            worlds.reward[0].item(),
            worlds.terminated[0].item(),
            worlds.truncated[0].item(),
            info,
        )

    def render(self) -> Any:
        """Return the world as text or as a uint8 frame; after an episode's end, as it stood before the last tick."""
        return draw(self.render_mode, self._world.snapshot(), self.settings)

    def close(self) -> None:
        """Free the world."""
        self._world.worlds.close()


class SnakeVectorEnv(VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """A batch of snake worlds, each sub-environment one slot; finished worlds restart in the same step.

    `num_envs` counts slots: with `num_snakes` = A it must be a multiple of A, and sub-environment w * A + a is snake a
    of world `first_world` + w. Observations are uint8 (num_envs, cells), actions integers (num_envs,), rewards
    float32 (num_envs,). `reset(seed=s)` starts episode 0 of seed s in every world, `reset()` the next episodes, the
    first time of a fresh seed. Infos are what Gymnasium's SyncVectorEnv reports in its SAME_STEP mode: where slots
    ended, `final_obs` and `final_info` with `food`.

    With several snakes, `infos["active"]`, bool (num_envs,), marks the slots whose snake is alive and acts on the
    observation it comes with. A snake that dies while its world continues is terminated once, then its slot is inactive
    (zero observation, zero reward, its action ignored) until the world's next episode makes it active again.

    With `copy=False` the arrays handed out are the batch's own, which the next step overwrites.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it an instance's
        "render_modes": list(RENDER_MODES),
        "render_fps": FRAMES_PER_SECOND,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        render_mode: str | None = None,
        copy: bool = True,
        first_world: int = 0,
        **settings: Any,
    ) -> None:
        self.settings = validated(SnakeSettings, settings, "snake")
        snakes = self.settings.num_snakes
        if num_envs < 1 or num_envs % snakes:
            raise EnvError(
                f"num_envs counts snakes: with num_snakes {snakes} it must be a multiple of {snakes}, got {num_envs}"
            )
        self.num_envs = num_envs
        self.render_mode = check_render_mode(render_mode)
        self.copy = copy
        self.worlds = SnakeWorlds(self.settings, num_envs // snakes, first_world=first_world)
        self.single_observation_space, self.single_action_space = spaces_of(self.worlds.spec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seeded = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Infos]:
        """Start an episode in every world; raises EnvError for a list of seeds and for the option `reset_mask`."""
        if isinstance(seed, list | tuple | np.ndarray):
            raise EnvError("a batch has one seed, from which every world derives its own: give reset() a whole number")
        if options is not None and "reset_mask" in options:
            raise EnvError("snake worlds restart by themselves (SAME_STEP): reset() cannot restart some of them")
        if seed is None and not self._seeded:
            seed = fresh_seed()
        super().reset(seed=None if seed is None else check_seed(seed))
        self.worlds.reset(seed)
        self._seeded = True
        return self._own(self.worlds.observation), activity_infos(self.worlds, copy=self.copy)

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], Infos]:
        """Advance every world one tick with integers (num_envs,) from 0 to 2.

        Raises EnvError for other actions, and before the first reset.
        """
        if not self._seeded:
            raise EnvError("no episode is in progress: call reset() before step()")
        worlds = self.worlds
        worlds.step(as_rows(actions, worlds.spec.action_space))
        return (
            self._own(worlds.observation),
            self._own(worlds.reward),
            self._own(worlds.terminated),
            self._own(worlds.truncated),
            final_infos(worlds) | activity_infos(worlds, copy=self.copy),
        )

    def render(self) -> tuple[Any, ...] | None:
        """Return every world, not every slot, as text or as a uint8 frame."""
        if self.render_mode is None:
            draw(None, {}, self.settings)
            return None
        views = (self.worlds.snapshot(world) for world in range(self.worlds.num_worlds))
        return tuple(draw(self.render_mode, view, self.settings) for view in views)

    def close_extras(self, **kwargs: Any) -> None:
        """Free the worlds."""
        self.worlds.close()

    def _own(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.copy() if self.copy else array
