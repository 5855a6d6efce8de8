"""PettingZoo's turn-based (AEC) environments, stepped as its parallel ones are: one tick is one move."""

from __future__ import annotations

from typing import Any

from rattle.envs.foreign import WrongValue, as_flag, as_number

#: What a step answers, by agent: observations, rewards, terminations, truncations and infos.
Answer = tuple[dict[Any, Any], dict[Any, float], dict[Any, bool], dict[Any, bool], dict[Any, Any]]


class InTurns:
    """A turn-based environment: only the agent that moves next is in the observations; who has ended is there too.

    An agent is told its reward when its turn comes again, or when it has ended: that is the sum since its last move. A
    reward from before its first move is told with that of its first one.
    """

    def __init__(self, env: Any) -> None:
        self._env = env

    def __getattr__(self, name: str) -> Any:
        """Return what the environment has: agents, spaces, `close`."""
        return getattr(self._env, name)

    def reset(self, seed: int) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Begin an episode; agents that end before anybody moves are not in `agents` any more."""
        self._env.reset(seed=seed)
        self._early: dict[Any, float] = {}
        self._moved: set[Any] = set()
        self._ended: set[Any] = set()
        seen, *_, infos = self._go_on()
        return {agent: row for agent, row in seen.items() if agent not in self._ended}, infos

    def step(self, actions: dict[Any, Any]) -> Answer:
        """Have the agent move whose turn it is; the actions of others are not looked at."""
        agent = self._env.agent_selection
        self._env.step(actions[agent])
        self._moved.add(agent)
        return self._go_on()

    def _go_on(self) -> Answer:
        """Take leave of agents that have ended, until one is selected that moves next or nobody is left."""
        env = self._env
        seen: dict[Any, Any] = {}
        rewards: dict[Any, float] = {}
        over: dict[Any, bool] = {}
        cut: dict[Any, bool] = {}
        infos: dict[Any, Any] = {}
        while env.agents:
            agent = env.agent_selection
            if agent in self._ended:
                raise WrongValue(f"the turn of '{agent}', whose episode has ended")
            seen[agent], reward, terminated, truncated, infos[agent] = env.last()
            rewards[agent] = self._earned(agent, as_number(reward, f"reward of '{agent}'"))
            over[agent] = as_flag(terminated, f"termination of '{agent}'")
            cut[agent] = as_flag(truncated, f"truncation of '{agent}'")
            if not (over[agent] or cut[agent]):
                break
            self._ended.add(agent)
            env.step(None)
            if agent in env.agents:
                raise WrongValue(f"'{agent}' among the agents, though it has ended and taken its last step")
        return seen, rewards, over, cut, infos

    def _earned(self, agent: Any, reward: float) -> float:
        """Return what an agent is told it earned; what comes before its first move is kept until after that."""
        if agent in self._moved:
            return reward + self._early.pop(agent, 0.0)
        self._early[agent] = reward
        return 0.0
