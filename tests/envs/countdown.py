"""Turn-based games written for tests, as PettingZoo has them: a module with `env` only."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.utils import seeding
from pettingzoo import AECEnv
from pettingzoo.utils.wrappers import BaseWrapper


class Countdown(AECEnv[str, Any, int]):  # type: ignore[misc]
    """Players take 1 to 3 from a heap in turn; who takes the last one wins 1, and the others lose 1.

    Whoever has just moved is paid `fee` times its action, also while it waits, and `gift` goes to all others at each
    move. With `limit` the game is cut after so many moves. A player named in `late` joins after as many moves as
    there are players, one in `leaves` is terminated after its second move while the others play on. Players see the
    heap, their own number and how many moves they have made.
    """

    metadata: dict[str, Any] = {"name": "countdown_v0", "is_parallelizable": False}  # noqa: RUF012 - PettingZoo's way

    def __init__(
        self,
        players: int = 2,
        heap: int = 11,
        *,
        fee: float = 0.0,
        gift: float = 0.0,
        limit: int = 0,
        late: tuple[int, ...] = (),
        leaves: tuple[int, ...] = (),
        moody: bool = False,
    ) -> None:
        self.possible_agents = [f"player_{number}" for number in range(players)]
        self.heap_size, self.fee, self.gift, self.limit = heap, fee, gift, limit
        self.late, self.leaves = ({self.possible_agents[number] for number in some} for some in (late, leaves))
        self.moody = moody
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Space[Any]:
        return Box(0, 1000, (3,), np.float32)

    def action_space(self, agent: str) -> Space[Any]:
        return Discrete(3, start=1)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        random, _ = seeding.np_random(None if self.moody else seed)
        self.heap = self.heap_size + int(random.integers(0, 4))
        self.moves = dict.fromkeys(self.possible_agents, 0)
        self.agents = [agent for agent in self.possible_agents if agent not in self.late]
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection = self.agents[0]

    def observe(self, agent: str) -> Any:
        return np.array([self.heap, self.possible_agents.index(agent), self.moves[agent]], np.float32)

    def step(self, action: int | None) -> None:
        mover = self.agent_selection
        if self.terminations[mover] or self.truncations[mover]:
            self._was_dead_step(action)
            return
        assert self.action_space(mover).contains(action)
        self._cumulative_rewards[mover] = 0.0
        self.moves[mover] += 1
        self.heap -= int(action)
        self.rewards = {agent: self.fee * action if agent == mover else self.gift for agent in self.agents}
        if self.heap <= 0:
            for agent in self.agents:
                self.rewards[agent] += 1.0 if agent == mover else -1.0
            self.terminations = dict.fromkeys(self.agents, True)
        elif self.limit and sum(self.moves.values()) >= self.limit:
            self.truncations = dict.fromkeys(self.agents, True)
        elif mover in self.leaves and self.moves[mover] == 2:
            self.terminations[mover] = True
        if sum(self.moves.values()) == len(self.possible_agents):
            for agent in self.possible_agents:
                if agent in self.late and agent not in self.agents:
                    self._join(agent)
        order = self.possible_agents
        place = order.index(mover)
        self.agent_selection = next(one for one in order[place + 1 :] + order[: place + 1] if one in self.agents)
        self._accumulate_rewards()
        self._deads_step_first()

    def _join(self, agent: str) -> None:
        self.agents = [one for one in self.possible_agents if one in self.agents or one == agent]
        self.rewards[agent] = self._cumulative_rewards[agent] = 0.0
        self.terminations[agent] = self.truncations[agent] = False
        self.infos[agent] = {}

    def close(self) -> None:
        self.agents = []


class Multiplied(BaseWrapper[str, Any, int]):  # type: ignore[misc]
    """Multiplies what players see."""

    def __init__(self, env: AECEnv[str, Any, int], factor: int = 2) -> None:
        super().__init__(env)
        self.factor = factor

    def observe(self, agent: str) -> Any:
        return self.factor * self.env.observe(agent)


def env(**settings: Any) -> Countdown:
    return Countdown(**settings)
