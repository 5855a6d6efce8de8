"""Worlds of any Gymnasium environment that has a flat observation and discrete actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.foreign import MAKING_ERRORS, cannot_make, check_harmless
from rattle.envs.gymnasium_ids import find_spec
from rattle.envs.logged_worlds import LoggedWorlds, check_batch, episode_seed
from rattle.envs.philox import check_seed
from rattle.envs.vector import EnvironmentSpec, FloatSpace, check_actions

Env = gymnasium.Env[Any, Any]


class KeyedEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Seeds every reset, autoresets included, from (seed, world, episode), and counts the episodes."""

    def __init__(self, env: Env, world: int) -> None:
        super().__init__(env)
        self._world = world
        self._seed = 0
        self.next_episode = 0
        # SyncVectorEnv steps the inner environment directly: a call less for every world and tick.
        self.step = env.step  # type: ignore[method-assign]

    def key(self, seed: int, next_episode: int) -> None:
        """Let the next reset start episode `next_episode` of `seed`."""
        self._seed = seed
        self.next_episode = next_episode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the next episode; a seed given here is ignored."""
        episode = self.next_episode
        self.next_episode += 1
        return self.env.reset(seed=episode_seed(self._seed, self._world, episode), options=options)


class GymnasiumWorlds(LoggedWorlds):
    """W worlds of one Gymnasium id, one agent each; implements `rattle.envs.vector.VectorWorlds`.

    World i of a seed plays the same episodes in any batch, because every episode has a seed of its own; `first_world`
    gives the number of the first world here. Observations are handed out as float32, actions 0 to n - 1 are counted
    from the action space's start. Where an environment says terminated and truncated at once, it is terminated.
    `state` stores the actions of the episodes in progress, and `restore` plays them again.

    With `allow_imports` false the id and the settings may come from a stranger; see `find_spec` and `check_harmless`.

    Raises EnvError for an unknown id, settings that `gymnasium.make` does not take, a missing dependency, and spaces
    other than a one-dimensional Box and Discrete.
    """

    def __init__(
        self,
        gymnasium_id: str,
        settings: Mapping[str, Any] | None = None,
        num_worlds: int = 1,
        seed: int = 0,
        first_world: int = 0,
        *,
        allow_imports: bool = True,
    ) -> None:
        check_batch(num_worlds, first_world)
        settings = dict(settings or {})
        gymnasium_spec = find_spec(gymnasium_id, allow_imports=allow_imports)
        if not allow_imports:
            check_harmless(f"gym:{gymnasium_id}", settings)
        self._keyed = [
            KeyedEpisodes(_make(gymnasium_spec, settings), first_world + world) for world in range(num_worlds)
        ]
        size, actions = _spaces(gymnasium_id, self._keyed[0])
        self._first_action = int(actions.start)
        self._envs = SyncVectorEnv(
            [lambda env=env: env for env in self._keyed],  # type: ignore[misc]
            copy=False,
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
        spec = EnvironmentSpec(
            id=f"gym:{gymnasium_id}",
            settings=settings,
            observation_space=FloatSpace(size),
            num_actions=int(actions.n),
            agents_per_world=1,
        )
        super().__init__(spec, num_worlds, seed, first_world)
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        """Start episode 0 of `seed` in every world, or with None the next episode of the current seed."""
        if seed is not None:
            self.seed = check_seed(seed)
            for env in self._keyed:
                env.key(self.seed, next_episode=0)
        self.observation[:] = self._envs.reset()[0]
        self._forget_last_step()
        self.episode[:] = [env.next_episode - 1 for env in self._keyed]
        self._log.clear()

    def step(self, action: NDArray[np.integer[Any]]) -> None:
        """Advance every world one tick; `action` holds 0 to num_actions - 1 in shape (W,)."""
        check_actions(action, self.num_slots, self.spec.num_actions)
        self._log.append(action)
        chosen = np.add(action, self._first_action, dtype=np.int64)
        observation, reward, terminated, truncated, infos = self._envs.step(chosen)
        self.observation[:] = observation
        self.reward[:] = reward
        self.terminated[:] = terminated
        np.logical_and(truncated, ~terminated, out=self.truncated)
        if "final_obs" in infos:
            ended = infos["_final_obs"].nonzero()[0]
            for world in ended:
                self.final_observation[world] = infos["final_obs"][world]
            self.episode[ended] += 1
            self._log.clear(ended)

    def close(self) -> None:
        """Close every environment."""
        self._envs.close()

    def _replay(self, world: int, actions: NDArray[np.int64]) -> bool:
        env = self._keyed[world]
        env.key(self.seed, next_episode=int(self.episode[world]))
        observation, _ = env.reset()
        for action in actions[:, 0] + self._first_action:
            observation, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                return False
        self.observation[world] = observation
        return True


def _make(spec: EnvSpec, settings: dict[str, Any]) -> Env:
    """Make one environment; raises EnvError for settings that it does not take and packages that it misses."""
    try:
        # Gymnasium's passive checker looks at the first steps only, and costs a call in all of them.
        return gymnasium.make(spec, **{"disable_env_checker": True, **settings})
    except MAKING_ERRORS as error:
        raise cannot_make(f"gym:{spec.id}", settings, error) from error


def _spaces(gymnasium_id: str, env: Env) -> tuple[int, Discrete]:
    """Return the length of the observation and the action space; raises EnvError for spaces of other kinds."""
    if not isinstance(env.observation_space, Box) or len(env.observation_space.shape) != 1:
        raise EnvError(
            f"'gym:{gymnasium_id}' observes {env.observation_space}, not a one-dimensional Box: register it, wrapped "
            "in gymnasium.wrappers.FlattenObservation, under an id of your own"
        )
    if not isinstance(env.action_space, Discrete):
        raise EnvError(
            f"'gym:{gymnasium_id}' takes actions from {env.action_space}: only Discrete actions can be trained, so "
            "choose an environment that has them, or register it wrapped in a gymnasium.ActionWrapper"
        )
    return env.observation_space.shape[0], env.action_space
