"""Agents of PettingZoo environments in groups, each with spaces of its own, that several policies play."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.foreign import as_taken, asking, close_all
from rattle.envs.pettingzoo_worlds import PettingZooGame, PettingZooWorlds, make_game, start_episode, step_world
from rattle.envs.seeds import check_seed
from rattle.envs.vector import check_actions
from rattle.text import one_line


class AgentGroup(PettingZooWorlds):
    """The agents of W worlds that one policy plays: slot w * A + a is agent a of the group in world w.

    All groups of the same worlds are told the same things, each in its turn: `reset`, `step`, `restore` and `close`
    happen in the worlds when the last group has been told so.
    """

    def __init__(self, game: PettingZooGame, table: _SharedWorlds, agents: Sequence[Any], seed: int) -> None:
        self._table = table
        self._table.groups.append(self)
        self._chosen: NDArray[Any] = np.zeros(0)  # actions (W, A, ...) as the environment has them
        self._stored: Mapping[str, NDArray[Any]] = {}
        self._take_part(game, seed, agents)

    def reset(self, seed: int | None = None) -> None:
        """Start episode 0 of `seed` in every world, or with None the next episode of the current seed."""
        if seed is not None:
            self.seed = check_seed(seed)
        self.episode[:] = 0 if seed is not None else self.episode + np.uint32(1)
        self._table.tell(self, "reset", self._table.reset)

    def step(self, action: NDArray[Any]) -> None:
        """Set out with actions (W * A, ...): all worlds advance one tick when every group has."""
        self.step_async(action)

    def step_async(self, action: NDArray[Any]) -> None:
        """Do what `step` does."""
        check_actions(action, self.num_slots, self.spec.action_space)
        self._chosen = self._write_actions(action)
        self._table.tell(self, "step", self._table.step)

    def step_wait(self) -> None:
        """Do nothing: the result of a step is there when the last group has set out."""

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue where `state` was taken, as `PettingZooWorlds` do, when every group has been told from where."""
        self._check_fits(state)
        self._stored = state
        self._table.tell(self, "restore", self._table.restore)

    def close(self) -> None:
        """Close every environment when no group needs it any more."""
        self._table.tell(self, "close", lambda: close_all(self.spec.id, self._envs))


class _SharedWorlds:
    """What the groups of the same worlds share: it waits until all have been told the same."""

    def __init__(self, groups: int) -> None:
        self.groups: list[AgentGroup] = []
        self._number = groups
        self._told: dict[str, list[AgentGroup]] = {}

    def tell(self, group: AgentGroup, what: str, do: Callable[[], None]) -> None:
        """Note that a group has been told what to do; do it when it is the last."""
        told = self._told.setdefault(what, [])
        if group in told:
            raise EnvError(
                f"'{group.spec.id}': a group of agents got the call {what} twice before the others got it: call it "
                "once for each group"
            )
        told.append(group)
        if len(told) == self._number:
            told.clear()
            do()

    def reset(self) -> None:
        """Start an episode in every world."""
        for group in self.groups:
            group._forget_last_step()
        for world in range(self.groups[0].num_worlds):
            start_episode(world, self.groups)
        for group in self.groups:
            group._log.clear()

    def step(self) -> None:
        """Advance every world one tick."""
        groups = self.groups
        for group in groups:
            group._forget_last_step()
        asking("step")
        for world, actions in enumerate(zip(*(group._chosen for group in groups), strict=True)):
            if step_world(world, groups, actions):
                continue
            for group in groups:
                group.episode[world] += 1
            start_episode(world, groups)
            asking("step")
            for group in groups:
                group._log.clear(np.array(group._slots_of(world)))

    def restore(self) -> None:
        """Play the actions of each episode in progress again; raises EnvError, and everything is then as it was."""
        before = [group.state() for group in self.groups]
        outcome = [[array.copy() for array in group._outcome()] for group in self.groups]
        try:
            self._take_over([group._stored for group in self.groups])
        except EnvError:
            self._take_over(before)
            for group, kept in zip(self.groups, outcome, strict=True):
                for array, value in zip(group._outcome(), kept, strict=True):
                    array[:] = value
            raise

    def _take_over(self, states: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        groups = self.groups
        for group, state in zip(groups, states, strict=True):
            group._log.restore(state)
            group.seed = check_seed(int(state["seed"][0]))
            group.episode[:] = state["episode"]
        for world in range(groups[0].num_worlds):
            start_episode(world, groups)
            logged = [as_taken(group._logged(world), group._taken) for group in groups]
            if len({len(actions) for actions in logged}) > 1 or not all(
                step_world(world, groups, actions) for actions in zip(*logged, strict=True)
            ):
                raise groups[0]._not_deterministic()
        for group, state in zip(groups, states, strict=True):
            group._forget_last_step()
            group._check_same(state)


def make_groups(
    module: str,
    settings: Mapping[str, Any] | None,
    policies: Mapping[str, str],
    num_worlds: int = 1,
    seed: int = 0,
    first_world: int = 0,
    *,
    allow_imports: bool = True,
    made_by: Callable[..., Any] | None = None,
) -> dict[str, AgentGroup]:
    """Make worlds whose agents are played by several policies; return the agents of each, by the policy's name.

    `policies` says by patterns of agents' names which policy plays them: a pattern matches the whole name, and the
    first that does counts. The policies are in the order in which they are named there. For the rest see
    `PettingZooWorlds`. Raises EnvError for agents that no pattern matches, patterns that match nobody, and agents of
    one policy whose spaces differ.
    """
    game = make_game(module, settings, num_worlds, seed, first_world, allow_imports=allow_imports, made_by=made_by)
    try:
        shares = share_out(game.name, list(game.agents), policies)
        table = _SharedWorlds(len(shares))
        return {policy: AgentGroup(game, table, agents, seed) for policy, agents in shares.items()}
    except EnvError:
        close_all(game.name, game.envs)
        raise


def share_out(name: str, agents: Sequence[Any], policies: Mapping[str, str]) -> dict[str, list[Any]]:
    """Return which of an environment's agents each policy plays; see `make_groups`."""
    first: list[str | None] = [
        next((pattern for pattern in policies if re.fullmatch(pattern, str(agent)) is not None), None)
        for agent in agents
    ]
    known = f"'{name}' has the agents {one_line(', '.join(map(str, agents)), 300)}"
    if None in first:
        raise EnvError(f"policies: no pattern matches '{agents[first.index(None)]}': {known}")
    for unused in policies:
        if unused not in first:
            raise EnvError(f"policies: '{unused}' matches nobody whom no pattern before it does: {known}")
    shares: dict[str, list[Any]] = {policy: [] for policy in policies.values()}
    for agent, pattern in zip(agents, first, strict=True):
        assert pattern is not None  # noqa: S101 - looked at before
        shares[policies[pattern]].append(agent)
    return shares
