"""Worlds of any PettingZoo parallel environment whose agents share one space to see and one to act."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gymnasium.spaces import Box, Space
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.foreign import (
    WrongValue,
    action_space,
    as_flag,
    as_number,
    cannot_describe,
    check_harmless,
    check_same_actions,
    failed,
    make_one,
    observed,
    parts_of_step,
)
from rattle.envs.gymnasium_observations import Observer
from rattle.envs.logged_worlds import LoggedWorlds, check_batch, episode_seed
from rattle.envs.pettingzoo_ids import find_parallel_env
from rattle.envs.vector import EnvironmentSpec
from rattle.envs.wrappers import PARALLEL, wrapping
from rattle.extensions import FOREIGN_ERRORS


class PettingZooWorlds(LoggedWorlds):
    """W worlds of one PettingZoo module's `parallel_env`; implements `rattle.envs.vector.VectorWorlds`.

    Slot w * A + a is agent a of `possible_agents` in world w. World i of a seed plays the same episodes in any batch,
    because every episode has a seed of its own; `first_world` gives the number of the first world here. A Box is handed
    out as float32, a Discrete observation as one code; values and actions are counted from their space's start. Where
    an environment says terminated and truncated at once, it is terminated; an agent that leaves without either is
    truncated. `state` stores the actions of the episodes in progress, and `restore` plays them again.

    With `allow_imports` false the module and the settings may come from a stranger; see `find_parallel_env` and
    `check_harmless`.

    Raises EnvError for a module without `parallel_env`, settings that it does not take, a missing dependency, agents
    that are not all there from the start, and spaces that differ between agents or have no row in
    `rattle.samples.spaces`.
    """

    def __init__(
        self,
        module: str,
        settings: Mapping[str, Any] | None = None,
        num_worlds: int = 1,
        seed: int = 0,
        first_world: int = 0,
        *,
        allow_imports: bool = True,
        made_by: Callable[..., Any] | None = None,
    ) -> None:
        """`made_by` is a class of a user in place of the module's `parallel_env`; `module` is then its name."""
        check_batch(num_worlds, first_world)
        settings = dict(settings or {})
        name = f"pettingzoo:{module}" if made_by is None else module
        parallel_env = made_by or find_parallel_env(module, allow_imports=allow_imports)
        if not allow_imports:
            check_harmless(name, settings)
        make = wrapping(name, parallel_env, settings, PARALLEL)
        envs = [make_one(name, make, settings) for _ in range(num_worlds)]
        try:
            self._agents = _agents_of(name, envs[0])
            taken = _shared_actions(name, envs[0], self._agents)
            actions = action_space(name, taken)
            self._observer = Observer(name, _shared_sight(name, envs[0], self._agents), actions)
        except EnvError:
            raise
        except FOREIGN_ERRORS as error:
            raise cannot_describe(name, error) from error
        self._known = frozenset(self._agents)
        spec = EnvironmentSpec(
            id=name,
            settings=settings,
            observation_space=self._observer.space,
            action_space=actions,
            agents_per_world=len(self._agents),
        )
        super().__init__(spec, envs, taken, seed, first_world)

    def _start(self, world: int) -> None:
        """Start episode `self.episode[world]` of one world."""
        seed = episode_seed(self.seed, self.first_world + world, int(self.episode[world]))
        try:
            seen, _ = observed(self._envs[world].reset(seed=seed), lambda first: isinstance(first, Mapping))
            missing = [str(agent) for agent in self._agents if agent not in seen]
            if missing:
                raise EnvError(
                    f"'{self.spec.id}' starts an episode without {', '.join(missing)}: only environments whose "
                    "possible agents are all there from the start can be played"
                )
            for slot, agent in zip(self._slots_of(world), self._agents, strict=True):
                self._see(slot, agent, seen[agent])
                self.active[slot] = True
                check_same_actions(self._envs[world].action_space(agent), self._taken)
        except EnvError:
            raise
        except FOREIGN_ERRORS as error:
            raise failed(self.spec.id, self.first_world + world, "reset", error) from error

    def _advance(self, world: int, actions: NDArray[Any]) -> bool:
        """Take the actions (A, ...) in one world and fill its rows; False when its episode is over.

        Agents that end while others play on see zeros from then on.
        """
        env = self._envs[world]
        slots = self._slots_of(world)
        chosen = dict(zip(self._agents, actions, strict=True))
        ended = []
        try:
            answer = parts_of_step(env.step({agent: chosen[agent] for agent in env.agents if agent in chosen}))
            self._check_guests(env.agents)
            for slot, agent in zip(slots, self._agents, strict=True):
                if self.active[slot] and self._hand_out(slot, agent, answer, env.agents):
                    ended.append(slot)
        except EnvError:
            raise
        except FOREIGN_ERRORS as error:
            raise failed(self.spec.id, self.first_world + world, "step", error) from error
        if not self.active[slots].any():
            return False
        self.observation[ended] = 0
        return True

    def _hand_out(self, slot: int, agent: Any, answer: tuple[Any, Any, Any, Any, Any], playing: Any) -> bool:
        """Fill the row of an agent from what a step answers; True when its episode is over.

        One that has left without an observation saw last what it saw before.
        """
        seen, rewards, terminated, truncated, _ = answer
        self.reward[slot] = as_number(rewards.get(agent, 0.0), f"reward of '{agent}'")
        self.terminated[slot] = over = as_flag(terminated.get(agent, False), f"termination of '{agent}'")
        cut = as_flag(truncated.get(agent, False), f"truncation of '{agent}'")
        self.truncated[slot] = cut = not over and (cut or agent not in playing)
        if agent in seen:
            self._see(slot, agent, seen[agent])
        elif not (over or cut):
            raise WrongValue(f"no observation of '{agent}', who plays on")
        if over or cut:
            self.final_observation[slot] = self.observation[slot]
            self.active[slot] = False
        return over or cut

    def _check_guests(self, playing: Any) -> None:
        for agent in playing:
            if agent not in self._known:
                raise EnvError(
                    f"'{self.spec.id}' lets '{agent}' join, who is not in possible_agents: only environments whose "
                    "agents are all there from the start can be played"
                )

    def _see(self, slot: int, agent: Any, observation: Any) -> None:
        try:
            self.observation[slot] = self._observer.row(observation)
        except WrongValue as error:
            raise WrongValue(f"{error}, for '{agent}'") from None


def _agents_of(name: str, env: Any) -> list[Any]:
    agents = list(getattr(env, "possible_agents", ()))
    if not agents:
        raise EnvError(f"'{name}' has no possible_agents: only environments with a fixed set of agents can be played")
    return agents


def _shared_sight(name: str, env: Any, agents: list[Any]) -> Space[Any]:
    """Return the one observation space of all agents; raises EnvError for several, or other kinds."""
    first: Space[Any] = env.observation_space(agents[0])
    for agent in agents:
        space = env.observation_space(agent)
        if not _alike(space, first):
            raise EnvError(
                f"'{name}': {agents[0]} observes {first} and {agent} {space}: all agents must have one observation "
                "space, so wrap the environment in one that pads them"
            )
    return first


def _shared_actions(name: str, env: Any, agents: list[Any]) -> Space[Any]:
    """Return the one action space of all agents; raises EnvError for several, or other kinds."""
    first: Space[Any] = env.action_space(agents[0])
    for agent in agents:
        if (space := env.action_space(agent)) != first:
            action_space(name, space)  # raises where nobody could take such actions
            raise EnvError(
                f"'{name}': {agents[0]} takes actions from {first} and {agent} from {space}: all agents must have one "
                "action space"
            )
    return first


def _alike(one: Any, other: Any) -> bool:
    """Whether rows of two spaces are the same: bounds of a Box may differ."""
    if isinstance(one, Box) and isinstance(other, Box):
        return one.shape == other.shape and one.dtype == other.dtype
    return bool(one == other)
