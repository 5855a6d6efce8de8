"""A parallel environment written for tests: wolves and sheep on a line, who see and do different things."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space
from gymnasium.utils import seeding
from pettingzoo import ParallelEnv

AGENTS = ("wolf_0", "sheep_0", "wolf_1", "sheep_1")
LENGTH = 12


class Hunt(ParallelEnv[str, Any, Any]):  # type: ignore[misc]
    """Wolves run by a real number and see all places; sheep step left, stay or right and see who is near.

    A sheep that a wolf is within `reach` of is caught: that is 1 for all wolves, and the end of the sheep. The hunt
    ends when all are caught, or is cut after `limit` ticks. With `masks` sheep also see which steps they may take.
    """

    metadata: dict[str, Any] = {"name": "hunt_v0"}  # noqa: RUF012 - as PettingZoo has it

    def __init__(self, limit: int = 12, reach: float = 0.6, *, masks: bool = False, moody: bool = False) -> None:
        self.limit, self.reach, self.masks, self.moody = limit, reach, masks, moody
        self.possible_agents = list(AGENTS)
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Space[Any]:
        if agent.startswith("wolf"):
            return Box(-1, LENGTH, (5,), np.float32)
        near = Box(0, LENGTH, (1,), np.float32)
        return Dict({"near": near, "action_mask": MultiBinary(3)}) if self.masks else near

    def action_space(self, agent: str) -> Space[Any]:
        return Box(-1.0, 1.0, (1,), np.float32) if agent.startswith("wolf") else Discrete(3, start=-1)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        self.random, _ = seeding.np_random(None if self.moody else seed)
        self.agents, self.tick = list(AGENTS), 0
        self.place = {agent: float(self.random.integers(LENGTH)) for agent in AGENTS}
        return {agent: self._see(agent) for agent in AGENTS}, {agent: {} for agent in AGENTS}

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        assert set(actions) == set(self.agents)
        for agent, action in actions.items():
            assert self.action_space(agent).contains(action if agent.startswith("wolf") else int(action)), action
            self.place[agent] = float(np.clip(self.place[agent] + float(np.asarray(action).reshape(())), 0, LENGTH - 1))
        self.tick += 1
        acting = list(self.agents)
        wolves = [self.place[agent] for agent in acting if agent.startswith("wolf")]
        caught = {
            agent
            for agent in acting
            if agent.startswith("sheep") and any(abs(self.place[agent] - wolf) < self.reach for wolf in wolves)
        }
        sheep = [agent for agent in acting if agent.startswith("sheep") and agent not in caught]
        over, cut = not sheep, self.tick >= self.limit
        rewards = {
            agent: float(len(caught)) if agent.startswith("wolf") else -1.0 if agent in caught else 0.1
            for agent in acting
        }
        terminated = {agent: agent in caught or over for agent in acting}
        truncated = {agent: cut and not terminated[agent] for agent in acting}
        self.agents = [] if over or cut else [agent for agent in acting if agent not in caught]
        return {agent: self._see(agent) for agent in acting}, rewards, terminated, truncated, {a: {} for a in acting}

    def _see(self, agent: str) -> Any:
        if agent.startswith("wolf"):
            return np.array([*self.place.values(), self.tick / self.limit], np.float32)
        wolves = [abs(self.place[agent] - self.place[wolf]) for wolf in AGENTS if wolf.startswith("wolf")]
        near = np.array([min(wolves)], np.float32)
        if not self.masks:
            return near
        place = self.place[agent]
        return {"near": near, "action_mask": np.array([place > 0, True, place < LENGTH - 1], np.int8)}

    def close(self) -> None:
        pass


parallel_env = Hunt
