"""Snake as a PettingZoo parallel environment; needs the extra `rattle[pettingzoo]`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from rattle.envs.errors import EnvError
from rattle.envs.gymnasium_batch import as_rows, spaces_of
from rattle.envs.snake.drawing import FRAMES_PER_SECOND, RENDER_MODES, check_render_mode, draw
from rattle.envs.snake.one_world import OneWorld
from rattle.envs.snake.settings import SnakeSettings
from rattle.envs.validation import validated

Observations = dict[str, NDArray[np.uint8]]
Infos = dict[str, dict[str, Any]]


class SnakeParallelEnv(ParallelEnv[str, NDArray[np.uint8], np.int64]):  # type: ignore[misc]  # PettingZoo has no types
    """One world of 1 to 8 snakes, agents `snake_0` and on; its settings are those of SnakeSettings.

    Observations are uint8 (cells,), actions 0 forward, 1 right, 2 left. An agent that dies leaves `agents`; the
    episode is over when none is left. `reset(seed=s)` starts episode 0 of seed s in world number `world`, `reset()`
    the next episode, the first time of a fresh seed. The info of the step that ends an agent's episode holds `food`,
    the food that it ate. Raises EnvError for bad settings, a missing action, and a step where no episode is in
    progress.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "rattle_snake_v0",
        "render_modes": list(RENDER_MODES),
        "render_fps": FRAMES_PER_SECOND,
        "is_parallelizable": True,
    }

    def __init__(self, render_mode: str | None = None, world: int = 0, **settings: Any) -> None:
        self.settings = validated(SnakeSettings, settings, "snake")
        self.render_mode = check_render_mode(render_mode)
        self._world = OneWorld(self.settings, world, watched=render_mode is not None)
        self.possible_agents = [f"snake_{number}" for number in range(self.settings.num_snakes)]
        self.agents: list[str] = []
        self._number = {agent: number for number, agent in enumerate(self.possible_agents)}
        # Every agent has spaces of its own: each is seeded apart from the others.
        self._spaces = {agent: spaces_of(self._world.worlds.spec) for agent in self.possible_agents}

    def observation_space(self, agent: str) -> Space[NDArray[np.uint8]]:
        """Return the agent's observation space, always the same object."""
        return self._spaces[agent][0]

    def action_space(self, agent: str) -> Space[Any]:
        """Return the agent's action space, always the same object."""
        return self._spaces[agent][1]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observations, Infos]:
        """Start an episode with every snake alive; return the observations and empty infos. Options are not used."""
        self._world.reset(seed)
        self.agents = list(self.possible_agents)
        return self._observations(), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, np.int64]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        """Advance one tick; `actions` names every living agent, and the answers are about those that were alive."""
        self._world.step(self._batched(actions))
        worlds = self._world.worlds
        ended = worlds.terminated | worlds.truncated
        number = {agent: self._number[agent] for agent in self.agents}
        answers = (
            self._observations(),
            {agent: worlds.reward[i].item() for agent, i in number.items()},
            {agent: worlds.terminated[i].item() for agent, i in number.items()},
            {agent: worlds.truncated[i].item() for agent, i in number.items()},
            {
                agent: {"food": worlds.final_metrics["food"][i].item()} if ended[i] else {}
                for agent, i in number.items()
            },
        )
        self.agents = [agent for agent, i in number.items() if not ended[i]]
        return answers

    def render(self) -> Any:
        """Return the world as text or as a uint8 frame; after an episode's end, as it stood before the last tick."""
        return draw(self.render_mode, self._world.snapshot(), self.settings)

    def close(self) -> None:
        """Free the world."""
        self._world.worlds.close()

    def _observations(self) -> Observations:
        seen = self._world.observation()
        return {agent: seen[self._number[agent]] for agent in self.agents}

    def _batched(self, actions: dict[str, np.int64]) -> NDArray[Any]:
        missing = [agent for agent in self.agents if agent not in actions]
        if missing:
            raise EnvError(f"no action for {', '.join(missing)}: every living agent moves in every step")
        chosen = [actions[agent] if agent in self.agents else 0 for agent in self.possible_agents]
        return as_rows(chosen, self._world.worlds.spec.action_space)


def parallel_env(**settings: Any) -> SnakeParallelEnv:
    """Return the parallel environment with these settings, as PettingZoo's environments are made."""
    return SnakeParallelEnv(**settings)
