"""Worlds of a `gymnasium.vector.VectorEnv`, which steps all of them in one call: Gymnasium's, EnvPool's, a user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from rattle.envs.errors import CannotReplay, EnvError
from rattle.envs.foreign import (
    NUMBERS,
    WrongValue,
    action_space,
    as_taken,
    asking,
    cannot_describe,
    check_harmless,
    close_all,
    failed,
    make_one,
    parts_of_step,
)
from rattle.envs.gymnasium_ids import find_spec
from rattle.envs.gymnasium_observations import MASK, Observer
from rattle.envs.logged_worlds import check_batch, episode_seed
from rattle.envs.seeds import check_seed
from rattle.envs.vector import EnvironmentSpec, ForeignBatch, Vector, check_actions
from rattle.envs.wrappers import KEY as WRAPPERS
from rattle.extensions import FOREIGN_ERRORS, said
from rattle.samples.spaces import DiscreteSpace, PartsSpace
from rattle.text import nearest, with_article

AnyVectorEnv = VectorEnv[Any, Any, Any]


class VectorEnvWorlds:
    """W worlds of one `gymnasium.vector.VectorEnv`, one agent each; implements `rattle.envs.vector.VectorWorlds`.

    Every autoreset mode is taken. SAME_STEP is what the protocol has. With DISABLED, worlds that ended are reset by
    their `reset_mask` at once. With NEXT_STEP, a world that ended rests for a tick: the step that resets it is nobody's
    action, so its slot is not active in it, and nothing of it enters a rollout. Last observations are handed out as the
    environment gives them; where SAME_STEP gives none, those of episodes that terminated are zeros.

    A batch cannot be stored: `restore` raises CannotReplay. It begins from a seed of its first world, or from one for
    each world where it takes those.
    """

    def __init__(
        self,
        name: str,
        make: Callable[..., AnyVectorEnv],
        settings: Mapping[str, Any],
        num_worlds: int,
        seed: int,
        first_world: int,
        *,
        seeded_when_made: bool = False,
    ) -> None:
        """`make` is called with the settings and `num_envs`, with a `seed` for each world if it is `seeded_when_made`.

        Raises EnvError for an environment that cannot be made, and for one that cannot be played.
        """
        check_batch(num_worlds, first_world)
        for taken in {"num_envs", *(["seed"] if seeded_when_made else [])} & settings.keys():
            raise EnvError(
                f"'{name}' may not be given '{taken}': env.worlds and the run's seed set it, so leave it out"
            )
        self.num_worlds = self.num_slots = num_worlds
        self.first_world, self.seed = first_world, check_seed(seed)
        self._name, self._settings = name, settings
        self._make, self._seeded_when_made = make, seeded_when_made
        self._env = self._made()
        self._is_used = False  # since it was made
        try:
            sight: Any = getattr(self._env, "single_observation_space", None)
            self._taken: Any = getattr(self._env, "single_action_space", None)
            metadata, by = self._env.metadata, self._env.unwrapped
        except FOREIGN_ERRORS as error:
            raise cannot_describe(name, error) from error
        self._mode = _mode(name, metadata)
        self._seeds_apart = isinstance(by, SyncVectorEnv | AsyncVectorEnv)
        batch = ForeignBatch(type(by).__name__, any_width=self._seeds_apart or seeded_when_made)
        actions = action_space(name, self._taken)
        seen, infos = self._begin(seed)
        self._observer = Observer(name, sight, actions, infos)
        self.spec = EnvironmentSpec(name, dict(settings), self._observer.space, actions, 1, batch=batch)
        self._number = actions.n if isinstance(actions, DiscreteSpace) else 0
        self.observation: NDArray[Any] = self.spec.observation_space.zeros(num_worlds)
        self.final_observation = np.zeros_like(self.observation)
        self.reward = np.zeros(num_worlds, np.float32)
        self.terminated, self.truncated = np.zeros((2, num_worlds), np.bool_)
        self.active = np.ones(num_worlds, np.bool_)
        self.episode = np.zeros(num_worlds, np.uint32)
        self.metrics: Mapping[str, NDArray[np.int32]] = {}
        self.final_metrics: Mapping[str, NDArray[np.int32]] = {}
        self._has_mask = isinstance(self._observer.space, PartsSpace) and self._observer.space.mask is not None
        self._resting = np.zeros(0, np.int64)  # worlds that begin again with the next step
        self._show(seen, infos)

    def reset(self, seed: int | None = None) -> None:
        """Start episode 0 of `seed` in every world, or with None the next episode of the current seed.

        Raises EnvError, as `step` does, for what an environment raises, and for what it hands out that is not what it
        declares.
        """
        seen, infos = self._begin(None if seed is None else check_seed(seed))
        self._show(seen, infos)
        self._resting = self._resting[:0]
        self.active[:] = True
        for array in (self.reward, self.terminated, self.truncated):
            array[:] = 0
        if seed is None:
            self.episode += np.uint32(1)
        else:
            self.episode[:] = 0

    def step(self, action: NDArray[Any]) -> None:
        """Advance every world one tick; `action` holds rows of the action space, in shape (W, ...)."""
        check_actions(action, self.num_worlds, self.spec.action_space)
        asking("step")
        try:
            self._take_in(parts_of_step(self._env.step(as_taken(action, self._taken))))
        except EnvError:
            raise
        except FOREIGN_ERRORS as error:
            raise self._failed("step", error) from error

    def _take_in(self, answer: tuple[Any, ...]) -> None:
        """Fill all arrays with what a step answers; raises WrongValue."""
        seen, reward, terminated, truncated, infos = answer
        self.observation[:] = self._observer.rows(seen, self.num_worlds, infos)
        self.reward[:] = self._numbers(reward, "reward")
        self.terminated[:] = self._numbers(terminated, "terminated")
        self.truncated[:] = self._numbers(truncated, "truncated")
        if self._resting.size:
            self._wake()
        self.truncated &= ~self.terminated
        ended = np.flatnonzero(self.terminated | self.truncated)
        if ended.size:
            self._end(ended, infos)
        if self._has_mask:
            self._observer.check_mask(self.observation[self.active])

    def _wake(self) -> None:
        """Begin the episodes of worlds that have rested in this tick: what the step says of them is no outcome."""
        rested, self._resting = self._resting, self._resting[:0]
        for array in (self.reward, self.terminated, self.truncated):
            array[rested] = 0
        self.episode[rested] += np.uint32(1)
        self.active[rested] = True

    def _end(self, ended: NDArray[np.int64], infos: Any) -> None:
        """Put aside what worlds that ended saw last, and begin their next episodes, or let them rest."""
        if self._mode is AutoresetMode.SAME_STEP:
            self.final_observation[ended] = self._last(ended, infos)
            self.episode[ended] += np.uint32(1)
            return
        self.final_observation[ended] = self.observation[ended]
        if self._mode is AutoresetMode.NEXT_STEP:
            self.observation[ended] = 0
            self.active[ended] = False
            self._resting = ended
            return
        mask = np.zeros(self.num_worlds, np.bool_)
        mask[ended] = True
        try:
            seen, infos = self._reset(options={"reset_mask": mask.copy()})
            begun = self._observer.rows(seen, self.num_worlds, infos)
            self._check_went_on(begun, ~mask)
            self.observation[ended] = begun[ended]
        except FOREIGN_ERRORS as error:
            raise self._failed("reset", error) from error
        self.episode[ended] += np.uint32(1)

    def _last(self, ended: NDArray[np.int64], infos: Any) -> NDArray[Any] | float:
        """Return what worlds that have begun again in this step saw last, without a mask that infos would have."""
        last = infos.get("final_obs") if isinstance(infos, Mapping) else None
        if last is None:
            if self.truncated.any():
                raise WrongValue("no final_obs in its infos, which a world that was truncated needs")
            return 0.0
        picked = _picked(last, ended)
        if isinstance(picked, np.ndarray) and picked.dtype == np.object_:
            return np.stack([self._observer.rows(_alone(one), 1, self._no_mask(1))[0] for one in picked])
        return self._observer.rows(picked, ended.size, self._no_mask(ended.size))

    def _no_mask(self, count: int) -> Mapping[str, Any]:
        """Return infos of worlds that are over: their masks, if there are any, allow nothing, since nobody acts."""
        return {MASK: np.zeros((count, self._number), np.int8)} if self._has_mask else {}

    def _check_went_on(self, begun: NDArray[Any], others: NDArray[np.bool_]) -> None:
        """Raise WrongValue where a reset of some worlds has changed what others see: they were reset too."""
        if isinstance(self.spec.observation_space, PartsSpace):
            return  # infos, which may hold a part, are of the worlds that were reset
        before = self.observation[others]
        now = begun[others].astype(before.dtype, copy=False)
        if not np.array_equal(now, before, equal_nan=before.dtype.kind == "f"):
            raise WrongValue("other observations of worlds that are not in the reset_mask of its options")

    def _show(self, seen: Any, infos: Any) -> None:
        """Take in what worlds see first."""
        try:
            self.observation[:] = self._observer.rows(seen, self.num_worlds, infos)
            self._observer.check_mask(self.observation)
        except FOREIGN_ERRORS as error:
            raise self._failed("reset", error) from error

    def _begin(self, seed: int | None) -> tuple[Any, Any]:
        """Reset all worlds, with a seed to its episodes 0, and return what they see first, and infos.

        What is seeded when it is made is made again for another seed, and for the same one once it was used.
        """
        if seed is not None:
            is_right = seed == self.seed and not self._is_used
            self.seed, self._is_used = seed, True
            if self._seeded_when_made and not is_right:
                close_all(self._name, [self._env])
                self._env = self._made()
        seeds: Any = None
        if seed is not None and not self._seeded_when_made:
            seeds = self._each_seed() if self._seeds_apart else episode_seed(seed, self.first_world, 0)
        try:
            return self._reset(seed=seeds)
        except FOREIGN_ERRORS as error:
            raise self._failed("reset", error) from error

    def _reset(self, **how: Any) -> tuple[Any, Any]:
        """Return the observations and infos that a reset answers; raises WrongValue."""
        asking("reset")
        answer = self._env.reset(**how)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise WrongValue(f"{with_article(type(answer).__name__)} instead of observations and infos")
        return answer

    def _numbers(self, values: Any, what: str) -> NDArray[Any]:
        array = np.asarray(values)
        if array.shape != (self.num_worlds,) or array.dtype.kind not in NUMBERS:
            wanted = f"one number for each of {self.num_worlds} worlds"
            raise WrongValue(f"{what} of shape {array.shape} and type {array.dtype} instead of {wanted}")
        return array

    def _failed(self, doing: str, error: BaseException) -> EnvError:
        """Return what to say of what came while all worlds were doing something."""
        return failed(self._name, range(self.first_world, self.first_world + self.num_worlds), doing, error)

    def _made(self) -> AnyVectorEnv:
        own: dict[str, Any] = {"num_envs": self.num_worlds}
        if self._seeded_when_made:
            own["seed"] = self._each_seed()
        env: AnyVectorEnv = make_one(self._name, partial(self._make, **own), self._settings)
        found = getattr(env, "num_envs", None)
        if found != self.num_worlds:
            raise EnvError(f"'{self._name}' was made with num_envs={self.num_worlds}, and its num_envs is {found}")
        return env

    def _each_seed(self) -> list[int]:
        return [episode_seed(self.seed, self.first_world + world, 0) for world in range(self.num_worlds)]

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of what is known of the worlds, from which nobody can continue."""
        seed, first_world = np.array([[self.seed], [self.first_world]], np.uint64)
        return {"seed": seed, "first_world": first_world, "episode": self.episode.copy()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Raise CannotReplay: a batch cannot be put back to where it was."""
        by = "" if self.spec.batch is None else self.spec.batch.stepped_by
        raise CannotReplay(
            f"'{self._name}' is stepped as one batch by {by}, whose worlds cannot be stored: new episodes begin"
        )

    def snapshot(self, world: int) -> dict[str, Any]:
        """Return what one world shows: its agent's observation as numbers."""
        return {"observation": self.observation[world].tolist()}

    def close(self) -> None:
        """Close the environment."""
        close_all(self._name, [self._env])


def _alone(seen: Any) -> Any:
    """Return one observation as a batch of one."""
    if isinstance(seen, Mapping):
        return {key: _alone(part) for key, part in seen.items()}
    if isinstance(seen, tuple):
        return tuple(map(_alone, seen))
    return np.asarray(seen)[np.newaxis]


def _picked(batch: Any, worlds: NDArray[np.int64]) -> Any:
    """Return the observations of some worlds out of a batch, laid out as it is."""
    if isinstance(batch, Mapping):
        return {key: _picked(part, worlds) for key, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_picked(part, worlds) for part in batch)
    return np.asarray(batch)[worlds]


def _mode(name: str, metadata: Any) -> AutoresetMode:
    """Return how an environment begins episodes again; raises EnvError where it does not say."""
    found = metadata.get("autoreset_mode") if isinstance(metadata, Mapping) else None
    try:
        return AutoresetMode(found)
    except ValueError:
        raise EnvError(
            f"'{name}' does not say when its worlds restart: its metadata must have an autoreset_mode of "
            f"gymnasium.vector.AutoresetMode, not {found!r}"
        ) from None


def gymnasium_worlds(
    gymnasium_id: str,
    settings: Mapping[str, Any],
    num_worlds: int,
    seed: int,
    first_world: int,
    *,
    vector: Vector,
    allow_imports: bool,
) -> VectorEnvWorlds | None:
    """Make worlds of the vector environment that a Gymnasium id has; None where it has none and may do without.

    Raises EnvError as `GymnasiumWorlds` does, and where `vector` is "always" and there is none.
    """
    name = f"gym:{gymnasium_id}"
    spec = find_spec(gymnasium_id, allow_imports=allow_imports)
    if not has_vector(spec) or settings.get(WRAPPERS):
        if vector == "always":
            raise EnvError(
                f"env.vector is always, but '{name}' has no vector environment that can be used: it is registered "
                "without one, or has wrappers, which go around single worlds; choose auto or never"
            )
        return None
    if not allow_imports:
        check_harmless(name, settings)
    make = partial(gymnasium.make_vec, spec, vectorization_mode="vector_entry_point")
    return VectorEnvWorlds(name, make, settings, num_worlds, seed, first_world)


def has_vector(spec: EnvSpec) -> bool:
    """Whether a Gymnasium id is registered with a vector environment, and with no wrappers that it would lack."""
    return spec.vector_entry_point is not None and not spec.additional_wrappers


def envpool_worlds(
    envpool_id: str,
    settings: Mapping[str, Any],
    num_worlds: int,
    seed: int,
    first_world: int,
    *,
    allow_imports: bool,
) -> VectorEnvWorlds:
    """Make worlds that EnvPool plays in threads of its own, a seed for each; raises EnvError where it cannot be had."""
    name = f"envpool:{envpool_id}"
    if not allow_imports:
        check_harmless(name, settings)
    try:
        import envpool
    except ImportError as error:
        raise EnvError(f"'{name}' needs EnvPool: pip install 'rattle[envpool]' ({said(error)})") from None
    pool: Any = envpool  # the same to type checkers where it is installed and where it is not
    known = pool.list_all_envs()
    if envpool_id not in known:
        hint = nearest(envpool_id, known) or ": envpool.list_all_envs() lists what it has"
        raise EnvError(f"EnvPool has no environment '{envpool_id}'{hint}")
    make = partial(pool.make_gymnasium, envpool_id)
    return VectorEnvWorlds(name, make, settings, num_worlds, seed, first_world, seeded_when_made=True)
