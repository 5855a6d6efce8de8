"""Worlds of any PettingZoo environment whose agents share one space to see and one to act."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Space
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.foreign import (
    WrongValue,
    action_space,
    as_flag,
    as_number,
    asking,
    cannot_describe,
    check_harmless,
    check_same_actions,
    failed,
    make_one,
    observed,
    one_by_one,
    parts_of_step,
)
from rattle.envs.gymnasium_observations import MASK, Observer
from rattle.envs.logged_worlds import LoggedWorlds, check_batch, episode_seed
from rattle.envs.pettingzoo_ids import find_env
from rattle.envs.pettingzoo_turns import InTurns
from rattle.envs.seeds import check_seed
from rattle.envs.vector import EnvironmentSpec
from rattle.envs.wrappers import PETTINGZOO, takes_turns, wrapping
from rattle.extensions import FOREIGN_ERRORS
from rattle.samples.spaces import ActionSpace, DiscreteSpace
from rattle.text import one_line

#: What a step answers in a dict by agents, in its order; of its infos masks alone are looked at.
_BY_AGENT = ("observations", "rewards", "terminations", "truncations")
#: What a step answers: observations, rewards, terminations, truncations and infos.
Answer = tuple[Any, Any, Any, Any, Any]


@dataclass(frozen=True)
class PettingZooGame:
    """PettingZoo environments that were made as worlds."""

    name: str
    settings: Mapping[str, Any]
    envs: Sequence[Any]
    in_turns: bool
    first_world: int
    agents: Sequence[Any]  # all that there may be
    #: What the first world's first reset answers, which may show masks, if it answers.
    first: tuple[Any, Any] | None


def make_game(
    module: str,
    settings: Mapping[str, Any] | None,
    num_worlds: int,
    seed: int,
    first_world: int,
    *,
    allow_imports: bool = True,
    made_by: Callable[..., Any] | None = None,
) -> PettingZooGame:
    """Make environments; see `PettingZooWorlds`."""
    check_batch(num_worlds, first_world)
    settings = dict(settings or {})
    name = f"pettingzoo:{module}" if made_by is None else module
    make = made_by or find_env(module, allow_imports=allow_imports)
    if not allow_imports:
        check_harmless(name, settings)
    make = wrapping(name, make, settings, PETTINGZOO)
    envs = [make_one(name, make, settings) for _ in range(num_worlds)]
    in_turns = takes_turns(envs[0])
    envs = [InTurns(env) for env in envs] if in_turns else envs
    try:
        agents = list(getattr(envs[0], "possible_agents", ()))
    except FOREIGN_ERRORS as error:
        raise cannot_describe(name, error) from error
    if not agents:
        raise EnvError(f"'{name}' has no possible_agents: only environments with a fixed set of agents can be played")
    if twice := [agent for agent in agents if agents.count(agent) > 1]:
        raise EnvError(
            f"'{name}' names the agent '{one_line(twice[0], 80)}' twice in possible_agents: give each its own name"
        )
    try:
        first = _begun(envs[0], episode_seed(check_seed(seed), first_world, 0))
    except FOREIGN_ERRORS:
        first = None  # which is said when it begins
    return PettingZooGame(name, settings, envs, in_turns, first_world, agents, first)


class PettingZooWorlds(LoggedWorlds):
    """W worlds of one PettingZoo module's `parallel_env` or `env`; implements `rattle.envs.vector.VectorWorlds`.

    Slot w * A + a is agent a of `possible_agents` in world w. World i of a seed plays the same episodes in any batch,
    because every episode has a seed of its own; `first_world` gives the number of the first world here. A Box is handed
    out as float32, a Discrete observation as one code; values and actions are counted from their space's start. Where
    an environment says terminated and truncated at once, it is terminated; an agent that leaves without either is
    truncated. `state` stores the actions of the episodes in progress, and `restore` plays them again.

    A tick of a turn-based game is one move: only the agent whose turn it is is active. It is told what it earned when
    its turn comes again, or when it ends. An agent that joins later is not active before; each takes part once an
    episode.

    With `allow_imports` false the module and the settings may come from a stranger; see `find_env` and
    `check_harmless`.

    Raises EnvError for a module without either, settings that it does not take, a missing dependency, agents that are
    not in `possible_agents`, and spaces that differ between agents or have no row in `rattle.samples.spaces`.
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
        game = make_game(module, settings, num_worlds, seed, first_world, allow_imports=allow_imports, made_by=made_by)
        self._take_part(game, seed, game.agents)

    def _take_part(self, game: PettingZooGame, seed: int, agents: Sequence[Any]) -> None:
        """Have rows for some agents of a game, or all; raises EnvError where their spaces differ."""
        name, env = game.name, game.envs[0]
        self._in_turns, self._known, self._agents = game.in_turns, frozenset(game.agents), list(agents)
        self._first = game.first  # which `start_episode` takes in
        try:
            taken = _shared_actions(name, env, self._agents)
            actions = action_space(name, taken)
            sight = _shared_sight(name, env, self._agents)
            self._observer = Observer(name, sight, actions, _first_info(game, self._agents, actions))
        except EnvError:
            raise
        except FOREIGN_ERRORS as error:
            raise cannot_describe(name, error) from error
        spec = EnvironmentSpec(
            id=name,
            settings=game.settings,
            observation_space=self._observer.space,
            action_space=actions,
            agents_per_world=len(self._agents),
            agents_wait=len(game.agents) > 1,
        )
        slots = len(game.envs) * len(self._agents)
        self._playing = np.zeros(slots, np.bool_)  # has joined, and not ended in this episode
        self._ended = np.zeros(slots, np.bool_)  # in this episode
        super().__init__(spec, game.envs, taken, seed, game.first_world)

    def _start(self, world: int) -> None:
        """Start episode `self.episode[world]` of one world."""
        start_episode(world, (self,))

    def _begin(self, world: int, seen: Mapping[Any, Any], infos: Any) -> None:
        """Fill the rows of one world, of which a reset has answered `seen` and `infos`."""
        slots, env = self._slots_of(world), self._envs[world]
        own = slice(slots.start, slots.stop)
        self._playing[own] = self._ended[own] = self.active[own] = False
        self.observation[own] = 0
        for slot, agent in zip(slots, self._agents, strict=True):
            if agent in env.agents:
                self._playing[slot] = True
                self._show(slot, agent, seen, infos)
            check_same_actions(env.action_space(agent), self._taken)

    def _advance(self, world: int, actions: NDArray[Any]) -> bool:
        """Take the actions (A, ...) in one world and fill its rows; False when its episode is over.

        Agents that wait, or have ended while others play on, see zeros.
        """
        return step_world(world, (self,), (actions,))

    def _take_in(self, world: int, answer: Answer) -> None:
        """Fill the rows of one world from what a step answers."""
        env = self._envs[world]
        for slot, agent in zip(self._slots_of(world), self._agents, strict=True):
            if self._playing[slot] or (agent in env.agents and not self._ended[slot]):
                self._hand_out(slot, agent, answer, env.agents)

    def _hand_out(self, slot: int, agent: Any, answer: Answer, playing: Any) -> None:
        """Fill the row of an agent from what a step answers.

        One that has left without an observation saw last what it saw before.
        """
        seen, rewards, terminated, truncated, infos = answer
        self.reward[slot] = as_number(rewards.get(agent, 0.0), f"reward of '{agent}'")
        self.terminated[slot] = over = as_flag(terminated.get(agent, False), f"termination of '{agent}'")
        cut = as_flag(truncated.get(agent, False), f"truncation of '{agent}'")
        self.truncated[slot] = cut = not over and (cut or agent not in playing)
        self._playing[slot] = True
        if not (over or cut):
            self._show(slot, agent, seen, infos)
            return
        if agent in seen:
            self._see(slot, agent, seen, infos)
            self.active[slot] = True
        self._wait(slot)
        self._playing[slot], self._ended[slot] = False, True

    def _show(self, slot: int, agent: Any, seen: Mapping[Any, Any], infos: Any) -> None:
        """Show an agent that plays on what it acts on next; in turn-based games others wait."""
        if agent in seen:
            self._see(slot, agent, seen, infos, acts=True)
            self.active[slot] = True
        elif self._in_turns:
            self._wait(slot)
        else:
            raise WrongValue(f"no observation of '{agent}', who plays on")

    def _wait(self, slot: int) -> None:
        """Have a slot see nothing, and keep what it has seen last."""
        if self.active[slot]:
            self.final_observation[slot] = self.observation[slot]
            self.observation[slot] = 0
            self.active[slot] = False

    def _see(self, slot: int, agent: Any, seen: Mapping[Any, Any], infos: Any, *, acts: bool = False) -> None:
        try:
            info = infos.get(agent) if isinstance(infos, Mapping) else None
            self.observation[slot] = self._observer.row(seen[agent], info, acts=acts)
        except WrongValue as error:
            raise WrongValue(f"{error}, for '{agent}'") from None


def start_episode(world: int, groups: Sequence[PettingZooWorlds]) -> None:
    """Start the next episode of one world, whose agents have rows in some `groups`: all of them, each in one."""
    first = groups[0]
    env, number = first._envs[world], first.first_world + world
    try:
        seed = episode_seed(first.seed, number, int(first.episode[world]))
        answer, first._first = first._first, None
        seen, infos = answer or _begun(env, seed)
        _check_by_agent("observations", seen)
        _check_known(env.agents, first._known)
        for group in groups:
            group._begin(world, seen, infos)
    except EnvError:
        raise
    except FOREIGN_ERRORS as error:
        raise failed(first.spec.id, number, "reset", error) from error
    if not any(group.active[slot] for group in groups for slot in group._slots_of(world)):
        raise EnvError(f"'{first.spec.id}', world {number}: an episode starts with no agent that acts")


def step_world(world: int, groups: Sequence[PettingZooWorlds], actions: Sequence[NDArray[Any]]) -> bool:
    """Take each group's actions (A, ...) in one world, and fill its rows; False when the episode is over."""
    first = groups[0]
    env = first._envs[world]
    chosen = {
        agent: action
        for group, own in zip(groups, actions, strict=True)
        for agent, action in zip(group._agents, one_by_one(own, group._taken), strict=True)
    }
    try:
        answer = parts_of_step(env.step({agent: chosen[agent] for agent in env.agents if agent in chosen}))
        for told, part in zip(_BY_AGENT, answer, strict=False):
            _check_by_agent(told, part)
        _check_known(env.agents, first._known)
        for group in groups:
            group._take_in(world, answer)
    except EnvError:
        raise
    except FOREIGN_ERRORS as error:
        raise failed(first.spec.id, first.first_world + world, "step", error) from error
    return any(group._playing[slot] for group in groups for slot in group._slots_of(world))


def _begun(env: Any, seed: int) -> tuple[Any, Any]:
    """Return the observations and the infos of a reset."""
    asking("reset")
    return observed(env.reset(seed=seed), lambda given: isinstance(given, Mapping))


def _first_info(game: PettingZooGame, agents: Sequence[Any], actions: ActionSpace) -> Mapping[str, Any] | None:
    """Return the infos in which one of some agents shows a mask at a game's start; None where none does.

    Where none of them acts then, they have masks if others have.
    """
    seen, infos = (part if isinstance(part, Mapping) else {} for part in game.first or ((), ()))
    shown = {agent: info for agent, info in infos.items() if isinstance(info, Mapping) and MASK in info}
    if any(agent in seen for agent in agents):
        return next((shown[agent] for agent in agents if agent in shown), None)
    return {MASK: np.ones(actions.n)} if shown and isinstance(actions, DiscreteSpace) else None


def _check_known(playing: Any, known: frozenset[Any]) -> None:
    for agent in playing:
        if agent not in known:
            raise WrongValue(
                f"the agent '{agent}', who is not in possible_agents: only environments that name all agents "
                "there can be played"
            )


def _check_by_agent(told: str, part: Any) -> None:
    """Raise WrongValue unless a part of an answer says something of agents by their names."""
    if not isinstance(part, Mapping):
        raise WrongValue(f"{told} that are no dict by agents: {one_line(repr(part), 80)}")


def _shared_sight(name: str, env: Any, agents: list[Any]) -> Space[Any]:
    """Return the one observation space of all agents, whose bounds may differ; raises EnvError for several."""
    spaces = [env.observation_space(agent) for agent in agents]
    first: Space[Any] = spaces[0]
    unlike = [not _alike(space, first) for space in spaces]
    _check_shared(f"'{name}': agents observe different spaces", agents, spaces, unlike)
    return first


def _shared_actions(name: str, env: Any, agents: list[Any]) -> Space[Any]:
    """Return the one action space of all agents; raises EnvError for several, or other kinds."""
    spaces = [env.action_space(agent) for agent in agents]
    for space in spaces:
        action_space(name, space)  # raises where nobody could take such actions
    first: Space[Any] = spaces[0]
    _check_shared(f"'{name}': agents act in different spaces", agents, spaces, [space != first for space in spaces])
    return first


def _alike(one: Any, other: Any) -> bool:
    """Whether rows of two spaces are the same: bounds of a Box may differ."""
    if isinstance(one, Box) and isinstance(other, Box):
        return one.shape == other.shape and one.dtype == other.dtype
    return bool(one == other)


def _check_shared(what: str, agents: list[Any], spaces: list[Any], unlike: list[bool]) -> None:
    """Raise EnvError, naming all agents by their spaces, where some are unlike the first one's."""
    if not any(unlike):
        return
    groups: dict[str, list[str]] = {}
    for agent, space in zip(agents, spaces, strict=True):
        groups.setdefault(one_line(space, 100), []).append(str(agent))
    told = "; ".join(f"{one_line(', '.join(names), 150)}: {space}" for space, names in groups.items())
    raise EnvError(
        f"{what} ({one_line(told, 600)}), and one policy plays them all: wrap the environment in one that gives all "
        "agents the same space, such as supersuit's pad_observations_v0 and pad_action_space_v0, or give each kind of "
        "agent a policy of its own with the setting policies"
    )
