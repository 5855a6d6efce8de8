"""What worlds of foreign environments share: a seed an episode, and a state that is played again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray

from rattle.envs.action_log import TOO_LONG, ActionLog
from rattle.envs.errors import CannotReplay, EnvError
from rattle.envs.foreign import as_taken, asking, close_all, failed
from rattle.envs.seeds import check_seed, derive_seed
from rattle.envs.vector import EnvironmentSpec, check_actions, observed
from rattle.extensions import FOREIGN_ERRORS
from rattle.text import one_line


def check_batch(num_worlds: int, first_world: int) -> None:
    """Raise EnvError unless there can be `num_worlds` worlds from number `first_world` on."""
    if num_worlds < 1 or first_world < 0:
        raise EnvError(f"cannot hold {num_worlds} worlds from number {first_world}: need 1 or more, from 0 on")


def episode_seed(seed: int, world: int, episode: int) -> int:
    """Return the seed of one episode: 31 bits, which fit RandomState, `random` and C libraries."""
    return derive_seed(seed, "world", world, episode) >> 33


#: The names in a state of LoggedWorlds.
STATE = frozenset({"seed", "first_world", "episode", "observation", "length", "actions"})


def join_states(states: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Return the state of LoggedWorlds whose parts, in order, have these states."""
    first = {name: states[0][name] for name in ("seed", "first_world")}
    rest = (name for name in states[0] if name not in first)
    return first | {name: np.concatenate([state[name] for state in states]) for name in rest}


def split_state(
    state: Mapping[str, NDArray[Any]], worlds: Sequence[int], agents_per_world: int
) -> list[dict[str, NDArray[Any]]]:
    """Return the states of parts with so many worlds each; raises EnvError for one that has no such parts."""
    of_worlds = np.cumsum([0, *worlds])
    of_slots = of_worlds * agents_per_world
    try:
        taken = np.append(0, np.cumsum(np.maximum(state["length"], 0)))
        bounds = {
            name: {"episode": of_worlds, "actions": taken[of_slots]}.get(name, of_slots)
            for name in state
            if name not in ("seed", "first_world")
        }
        for name, ends in bounds.items():
            if len(state[name]) != ends[-1]:
                raise ValueError(name)
        return [
            {
                "seed": state["seed"],
                "first_world": state["first_world"] + np.uint64(of_worlds[part]),
                **{name: state[name][ends[part] : ends[part + 1]] for name, ends in bounds.items()},
            }
            for part in range(len(worlds))
        ]
    except (KeyError, ValueError, IndexError) as error:
        raise EnvError(f"the stored worlds do not fit: {one_line(error)} is missing or another array") from None


class LoggedWorlds(ABC):
    """The arrays of W worlds, whose state is their seed and the actions of the episodes in progress.

    Environments from elsewhere cannot be stored, but started again: every episode has a seed of its own, so that
    `restore` takes the same actions in the same episodes. A subclass starts and steps one world.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        envs: Sequence[Any],
        taken: Space[Any],
        seed: int,
        first_world: int,
    ) -> None:
        """`envs` are the worlds, which take actions from the space `taken`."""
        num_worlds = len(envs)
        self.spec = spec
        self._envs = envs
        self._taken = taken
        self.num_worlds = num_worlds
        self.num_slots = slots = num_worlds * spec.agents_per_world
        self.first_world = first_world
        self.seed = check_seed(seed)
        space = spec.observation_space
        self.observation: NDArray[Any] = space.zeros(slots)
        self.reward = np.zeros(slots, np.float32)
        self.terminated = np.zeros(slots, np.bool_)
        self.truncated = np.zeros(slots, np.bool_)
        self.active = np.ones(slots, np.bool_)
        self.final_observation = np.zeros_like(self.observation)
        self.final_metrics: Mapping[str, NDArray[np.int32]] = {}
        self.metrics: Mapping[str, NDArray[np.int32]] = {}
        self.episode = np.zeros(num_worlds, np.uint32)
        self._log = ActionLog(slots, spec.action_space, spec.id)
        self.reset(seed)

    def watch(self, note: Callable[[int], None]) -> None:
        """Have `note` called with a world's number before each start and each tick of it."""
        start, advance = self._start, self._advance

        def noted_start(world: int) -> None:
            note(world)
            start(world)

        def noted_advance(world: int, actions: NDArray[Any]) -> bool:
            note(world)
            return advance(world, actions)

        self._start, self._advance = noted_start, noted_advance  # type: ignore[method-assign]

    @abstractmethod
    def _start(self, world: int) -> None:
        """Start episode `self.episode[world]` of one world, and fill its rows of `observation` and `active`."""

    @abstractmethod
    def _advance(self, world: int, actions: NDArray[Any]) -> bool:
        """Take actions (A, ...), as the environment has them, in one world and fill its rows; False when it is over.

        Slots whose episode ended have their last observation in `final_observation`.
        """

    def reset(self, seed: int | None = None) -> None:
        """Start episode 0 of `seed` in every world, or with None the next episode of the current seed.

        Raises EnvError, as `step` does, for whatever an environment raises, and for what it hands out that is not what
        it declares.
        """
        if seed is None:
            self.episode += np.uint32(1)
        else:
            self.seed = check_seed(seed)
            self.episode[:] = 0
        self._forget_last_step()
        for world in range(self.num_worlds):
            self._start(world)
        self._log.clear()

    def step(self, action: NDArray[Any]) -> None:
        """Advance every world one tick; `action` holds rows of the action space, in shape (W * A, ...)."""
        check_actions(action, self.num_slots, self.spec.action_space)
        self.take(action)

    def take(self, action: NDArray[Any]) -> None:
        """Do what `step` does with actions that `check_actions` has seen already."""
        taken = self._write_actions(action)
        self._forget_last_step()
        asking("step")
        for world, actions in enumerate(taken):
            if self._advance(world, actions):
                continue
            self.episode[world] += 1
            self._start(world)
            asking("step")
            self._log.clear(np.array(self._slots_of(world)))

    def _write_actions(self, action: NDArray[Any]) -> NDArray[Any]:
        """Write actions (W * A, ...) into the log; return them as the environment has them, in shape (W, A, ...)."""
        space = self.spec.action_space
        chosen = action.astype(space.dtype)
        chosen[~self.active] = 0
        self._log.append(chosen)
        return as_taken(chosen.reshape(self.num_worlds, -1, *space.shape), self._taken)

    def close(self) -> None:
        """Close every environment."""
        close_all(self.spec.id, self._envs)

    def _replay(self, world: int, actions: NDArray[Any]) -> bool:
        """Start episode `self.episode[world]` of one world and take `actions` (ticks, A, ...) in it.

        Fills the world's rows of `observation` and `active`; returns False when the episode ended on the way.
        """
        self._start(world)
        goes_on = all(self._advance(world, row) for row in as_taken(actions, self._taken))
        self._forget_last_step()
        return goes_on

    def play_again(self, episode: int, actions: NDArray[Any]) -> Iterator[bool]:
        """Play an episode of the first world with actions (ticks, A, ...); what follows is no game of its seed.

        Yields before each tick, and after the last, whether it continues. Raises EnvError as `step` does.
        """
        self.episode[0] = episode
        self._start(0)
        yield True
        for row in as_taken(actions, self._taken):
            self._forget_last_step()
            yield self._advance(0, row)

    def render(self) -> Any:
        """Return what the environment of the first world draws; raises EnvError for what it raises."""
        try:
            return self._envs[0].render()
        except FOREIGN_ERRORS as error:
            raise failed(self.spec.id, self.first_world, "render", error) from error

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of all that decides what follows, as plain arrays."""
        return {
            "seed": np.array([self.seed], np.uint64),
            "first_world": np.array([self.first_world], np.uint64),
            "episode": self.episode.copy(),
            "observation": self.observation.copy(),
            **self._log.state(),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue exactly where `state` was taken, by playing the actions of each episode in progress again.

        Raises EnvError when the state is of other worlds, and CannotReplay when an environment does not repeat itself
        or an episode was too long for its actions to be kept; everything is then as it was.
        """
        self._check_fits(state)
        before, outcome = self.state(), [array.copy() for array in self._outcome()]
        try:
            self._take_over(state)
        except EnvError:
            self._take_over(before)
            for array, value in zip(self._outcome(), outcome, strict=True):
                array[:] = value
            raise

    def _take_over(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._log.restore(state)
        self.seed = check_seed(int(state["seed"][0]))
        self.episode[:] = state["episode"]
        self._forget_last_step()
        for world in range(self.num_worlds):
            if not self._replay(world, self._logged(world)):
                raise self._not_deterministic()
        self._check_same(state)

    def _logged(self, world: int) -> NDArray[Any]:
        """Return the actions of a world's episode in progress, in shape (ticks, A, ...)."""
        dtype = self.spec.action_space.dtype
        return np.stack([self._log.actions_of(slot).astype(dtype) for slot in self._slots_of(world)], axis=1)

    def _check_same(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Raise CannotReplay unless agents observe what they did when `state` was taken."""
        if not np.array_equal(self.observation, state["observation"], equal_nan=self.observation.dtype.kind == "f"):
            raise self._not_deterministic()

    def snapshot(self, world: int) -> dict[str, Any]:
        """Return what one world shows: its agents' observations as numbers."""
        return observed(self.observation[self._slots_of(world)])

    def _slots_of(self, world: int) -> range:
        agents = self.spec.agents_per_world
        return range(world * agents, (world + 1) * agents)

    def _outcome(self) -> tuple[NDArray[Any], ...]:
        """Return what the last step came to."""
        return self.reward, self.terminated, self.truncated

    def _forget_last_step(self) -> None:
        for array in self._outcome():
            array[:] = 0

    def _check_fits(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Raise EnvError for a state of other worlds, and CannotReplay for one that lacks actions."""
        for name, own in self.state().items():
            stored = state.get(name)
            if stored is None or stored.dtype != own.dtype or (name != "actions" and stored.shape != own.shape):
                raise EnvError(f"the stored worlds do not fit '{self.spec.id}': '{name}' is missing or another array")
        first_world = int(state["first_world"][0])
        if first_world != self.first_world:
            raise EnvError(f"the stored worlds are numbered from {first_world}, these from {self.first_world}")
        if (state["length"] == TOO_LONG).any():
            raise CannotReplay(f"an episode of '{self.spec.id}' was too long to be played again: new episodes begin")
        if (np.diff(state["length"].reshape(self.num_worlds, -1)) != 0).any():
            raise EnvError("the stored worlds are damaged: a world's agents have taken unequally many actions")

    def _not_deterministic(self) -> CannotReplay:
        return CannotReplay(
            f"'{self.spec.id}' went another way when its episodes were played again from their seeds: it is not "
            "deterministic, or not the version that was stored, so new episodes begin"
        )
