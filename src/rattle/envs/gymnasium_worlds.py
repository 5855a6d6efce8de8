"""Worlds of any Gymnasium environment whose observations and actions have a row in `samples.spaces`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.foreign import (
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
from rattle.envs.gymnasium_ids import find_spec
from rattle.envs.gymnasium_observations import Observer
from rattle.envs.logged_worlds import LoggedWorlds, check_batch, episode_seed
from rattle.envs.seeds import check_seed
from rattle.envs.vector import EnvironmentSpec
from rattle.envs.wrappers import GYMNASIUM, wrapping
from rattle.extensions import FOREIGN_ERRORS

Env = gymnasium.Env[Any, Any]


class GymnasiumWorlds(LoggedWorlds):
    """W worlds of one Gymnasium id, one agent each; implements `rattle.envs.vector.VectorWorlds`.

    World i of a seed plays the same episodes in any batch, because every episode has a seed of its own; `first_world`
    gives the number of the first world here. Observations of a Box are handed out as float32, those of a Discrete as
    codes. Codes and whole actions are counted from their space's start; real numbers are put into its bounds. Where an
    environment says terminated and truncated at once, it is terminated. `state` stores the actions of the episodes in
    progress, and `restore` plays them again.

    With `allow_imports` false the id and the settings may come from a stranger; see `find_spec` and `check_harmless`.

    Raises EnvError for an unknown id, settings that `gymnasium.make` does not take, a missing dependency, and spaces
    that have no row in `rattle.samples.spaces`.
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
        made_by: Callable[..., Env] | None = None,
    ) -> None:
        """`made_by` is a class of a user, called with the settings, in place of `gymnasium.make` and what it takes.

        `gymnasium_id` is then the name of the class, and the settings are checked.
        """
        check_batch(num_worlds, first_world)
        settings = dict(settings or {})
        name = f"gym:{gymnasium_id}" if made_by is None else gymnasium_id
        if not allow_imports:
            check_harmless(name, settings)
        make = made_by or _maker(find_spec(gymnasium_id, allow_imports=allow_imports))
        make = wrapping(name, make, settings, GYMNASIUM)
        envs = [make_one(name, make, settings) for _ in range(num_worlds)]
        try:
            sight: Any = getattr(envs[0], "observation_space", None)
            taken: Any = getattr(envs[0], "action_space", None)
            actions = action_space(name, taken)
            self._shape = getattr(sight, "shape", None)
            #: What the first world's first reset answers, which may show a mask; `_start` takes it in.
            self._first = self._try_to_begin(envs[0], episode_seed(check_seed(seed), first_world, 0))
            self._observer = Observer(name, sight, actions, None if self._first is None else self._first[1])
        except EnvError:
            raise
        except FOREIGN_ERRORS as error:
            raise cannot_describe(name, error) from error
        spec = EnvironmentSpec(
            id=name,
            settings=settings,
            observation_space=self._observer.space,
            action_space=actions,
            agents_per_world=1,
        )
        super().__init__(spec, envs, taken, seed, first_world)

    def _start(self, world: int) -> None:
        """Start episode `self.episode[world]` of one world."""
        seed = episode_seed(self.seed, self.first_world + world, int(self.episode[world]))
        try:
            answer, self._first = self._first, None
            seen, infos = self._begin(self._envs[world], seed) if answer is None else answer
            self.observation[world] = self._observer.row(seen, infos, acts=True)
            check_same_actions(self._envs[world].action_space, self._taken)
        except FOREIGN_ERRORS as error:
            raise failed(self.spec.id, self.first_world + world, "reset", error) from error

    def _begin(self, env: Env, seed: int) -> tuple[Any, Any]:
        asking("reset")
        return observed(env.reset(seed=seed), self._is_observation)

    def _try_to_begin(self, env: Env, seed: int) -> tuple[Any, Any] | None:
        """Return the observation and the infos of a reset; None where it fails, which is said when it begins."""
        try:
            return self._begin(env, seed)
        except FOREIGN_ERRORS:
            return None

    def _is_observation(self, first: Any) -> bool:
        return bool(self._shape is not None and np.shape(first) == self._shape)

    def _advance(self, world: int, actions: NDArray[Any]) -> bool:
        """Take the one agent's action in one world and fill its row; False when its episode is over."""
        [action] = one_by_one(actions, self._taken)
        try:
            seen, reward, terminated, truncated, infos = parts_of_step(self._envs[world].step(action))
            self.reward[world] = as_number(reward, "reward")
            self.terminated[world] = over = as_flag(terminated, "terminated")
            self.truncated[world] = cut = not over and as_flag(truncated, "truncated")
            self.observation[world] = self._observer.row(seen, infos, acts=not (over or cut))
        except FOREIGN_ERRORS as error:
            raise failed(self.spec.id, self.first_world + world, "step", error) from error
        if over or cut:
            self.final_observation[world] = self.observation[world]
        return not (over or cut)


def _maker(spec: EnvSpec) -> Callable[..., Env]:
    # Gymnasium's passive checker looks at the first steps only, and costs a call in all of them.
    return partial(gymnasium.make, spec, disable_env_checker=True)
