"""What users build vector environments on: a class that steps many worlds at once, in a few lines of NumPy."""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.foreign import asking
from rattle.envs.logged_worlds import check_batch
from rattle.envs.philox import philox
from rattle.envs.seeds import check_seed, derive_seed, split_seed
from rattle.envs.validation import StrictSettings
from rattle.envs.vector import EnvironmentSpec, check_actions, observed
from rattle.extensions import Extension, ExtensionError, WrongResult
from rattle.samples.spaces import Actions, ActionSpace, Observations, ObservationSpace
from rattle.text import one_line

#: What a step makes again, and what is known without a state.
_OUTCOME = ("reward", "terminated", "truncated")
_NOT_STORED = frozenset({*_OUTCOME, "final_observation", "num_worlds", "num_slots", "first_world"})

#: Begins the names of metrics in a state, and of arrays that are bytes there.
_METRIC, _BYTES = "metrics/", "bytes/"
#: Types that messages have; numbers that need not be finite go as bytes.
_IN_MESSAGES = frozenset(map(np.dtype, ("bool", "uint8", "int32", "int64", "uint32", "uint64")))
_STORED_KINDS = frozenset("biuf")


def _unpacked(name: str, array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    """Return an array of a state under the name of its attribute."""
    if not name.startswith(_BYTES):
        return name, array
    dtype, _, own = name.removeprefix(_BYTES).partition("/")
    try:
        return own, array.view(np.dtype(dtype))
    except (TypeError, ValueError):
        raise EnvError(f"the stored worlds are damaged: '{name[:60]}' does not hold what it says") from None


class Worlds(ABC):
    """W worlds of A agents that are stepped together; a subclass says how one begins and how a tick goes.

    Slot w * A + a is agent a of world w. `start` and `advance` fill rows of `observation`, `reward`, `terminated` and
    `truncated`; worlds whose agents have all ended begin again by themselves. All that decides what follows must be
    attributes that are NumPy arrays or numbers: checkpoints store those. What is drawn by `random` is the same for a
    world of a seed in any batch.
    """

    class Settings(StrictSettings):
        """What is next to `id` in the experiment; a subclass may have its own, a pydantic.BaseModel."""

    agents_per_world: int = 1
    #: Names of whole numbers that an agent's episode ends with, such as "food": arrays (B,) in `metrics`.
    metric_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, settings: Any, num_worlds: int, seed: int = 0, first_world: int = 0) -> None:
        check_batch(num_worlds, first_world)
        self._extension = Extension(name, type(self))
        self.settings = settings
        with self._calling("spaces"):
            observation, action = self.spaces()
            if not isinstance(observation, Observations) or not isinstance(action, Actions):
                raise WrongResult("something else than a space of observations and one of actions of rattle.extend")
        own, agents, names = settings.model_dump(mode="json"), self.agents_per_world, self.metric_names
        is_number = isinstance(agents, int | np.integer) and agents > 0
        self._check_said("agents_per_world", "a whole number from 1 on", is_right=is_number)
        are_names = isinstance(names, tuple | list) and all(isinstance(one, str) for one in names)  # ("food") is text
        self._check_said("metric_names", 'a tuple of names, such as ("food",)', is_right=are_names)
        self.spec = EnvironmentSpec(name, own, observation, action, int(agents), tuple(names))
        self.num_worlds, self.first_world = num_worlds, first_world
        self.num_slots = slots = num_worlds * self.spec.agents_per_world
        self.observation: NDArray[Any] = observation.zeros(slots)
        self.final_observation = np.zeros_like(self.observation)
        self.reward = np.zeros(slots, np.float32)
        self.terminated, self.truncated = np.zeros((2, slots), np.bool_)
        self.active = np.ones(slots, np.bool_)
        self.metrics: Mapping[str, NDArray[np.int32]] = {one: np.zeros(slots, np.int32) for one in self.metric_names}
        self.final_metrics = {one: np.zeros(slots, np.int32) for one in self.metric_names}
        self.episode = np.zeros(num_worlds, np.uint32)
        self.drawn = np.zeros(num_worlds, np.uint32)  # numbers of the episode in progress
        self._own = {name: getattr(self, name) for name in ("observation", *_OUTCOME)}
        self.seed = check_seed(seed)
        with self._calling("allocate"):
            self.allocate()
        self.reset(seed)

    def __init_subclass__(cls, **extra: Any) -> None:
        """Have what a subclass says of `snapshot` and `close` name that subclass where it fails."""
        super().__init_subclass__(**extra)
        if "snapshot" in cls.__dict__:
            cls.snapshot = _plain(cls.snapshot)  # type: ignore[method-assign, assignment]
        if "close" in cls.__dict__:
            cls.close = _harmless(cls.close)  # type: ignore[method-assign, assignment]

    @contextmanager
    def _calling(self, method: str) -> Iterator[None]:
        """Turn what a method of the subclass raises into an EnvError that names it."""
        try:
            with self._extension.calling(method):
                yield
        except ExtensionError as error:
            raise EnvError(str(error)) from error.__cause__

    def _check_said(self, name: str, wanted: str, *, is_right: bool) -> None:
        if not is_right:
            said = one_line(repr(getattr(self, name)), 60)
            raise EnvError(f"{self._extension.path}: {name} is {said}, and must be {wanted}")

    @abstractmethod
    def spaces(self) -> tuple[ObservationSpace, ActionSpace]:
        """Return what an agent observes and does, as the settings have it."""

    def allocate(self) -> None:  # noqa: B027
        """Make the arrays that worlds are kept in, as attributes; called once, before anything begins."""

    @abstractmethod
    def start(self, worlds: NDArray[np.int64]) -> None:
        """Begin the next episode of some worlds: fill their rows of `observation`, and of arrays of your own."""

    @abstractmethod
    def advance(self, action: NDArray[Any]) -> None:
        """Make a tick in all worlds with actions (B, ...), within their bounds.

        It fills `observation`, and what differs from 0 of the outcome.
        Rows of agents that are not `active` count for nothing.
        """

    def random(self, worlds: NDArray[np.int64], count: int = 1) -> NDArray[np.float64]:
        """Return `count` numbers from 0 to 1 for each of some worlds, (len(worlds), count): the next of its episode."""
        draw = self.drawn[worlds][:, None].astype(np.uint64) + np.arange(count, dtype=np.uint64)
        self.drawn[worlds] += np.uint32(count)
        world = (worlds + self.first_world).astype(np.uint64)[:, None]
        counter = (draw, self.episode[worlds].astype(np.uint64)[:, None], world, np.zeros_like(world))
        key = (np.uint64(part) for part in split_seed(derive_seed(self.seed, "random")))
        words: Any = philox.py_func  # uncompiled it takes whole arrays
        high, low, _, _ = words(*np.broadcast_arrays(*counter), *key)
        numbers: NDArray[np.float64] = ((high >> 5) * 2.0**26 + (low >> 6)) / 2.0**53
        return numbers

    def reset(self, seed: int | None = None) -> None:
        """Start episode 0 of `seed` in every world, or with None the next episode of the current seed."""
        if seed is None:
            self.episode += np.uint32(1)
        else:
            self.seed = check_seed(seed)
            self.episode[:] = 0
        self._forget_outcome()
        self._begin(np.arange(self.num_worlds))

    def step(self, action: NDArray[Any]) -> None:
        """Advance every world one tick; `action` holds rows of the action space, in shape (B, ...)."""
        space = self.spec.action_space
        check_actions(action, self.num_slots, space)
        self._forget_outcome()
        asking("step")
        with self._calling("advance"):
            self.advance(space.bound(action.astype(space.dtype, copy=False)))
            self._take_in()
        self.truncated &= ~self.terminated
        if self.spec.agents_per_world > 1:
            for name in _OUTCOME:
                self._own[name][~self.active] = 0
        ended = self.terminated | self.truncated
        if ended.any():
            self._end(ended)
        if self.spec.agents_per_world > 1:
            self.observation[~self.active] = 0

    def _end(self, ended: NDArray[np.bool_]) -> None:
        """Put aside what slots that ended saw last, and begin the next episodes of worlds without active agents."""
        self.final_observation[ended] = self.observation[ended]
        for name, values in self.metrics.items():
            self.final_metrics[name][ended] = values[ended]
        self.active[ended] = False
        over = np.flatnonzero(~self.active.reshape(self.num_worlds, -1).any(axis=1))
        self.episode[over] += np.uint32(1)
        if over.size:
            self._begin(over)

    def _begin(self, worlds: NDArray[np.int64]) -> None:
        slots = self.slots(worlds)
        self.active[slots] = True
        self.drawn[worlds] = 0
        for values in self.metrics.values():
            values[slots] = 0
        asking("reset")
        with self._calling("start"):
            self.start(worlds)
            self._take_in()

    def slots(self, worlds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the slots of some worlds, agent by agent of each."""
        agents = self.spec.agents_per_world
        return (worlds[:, None] * agents + np.arange(agents)).reshape(-1)

    def _take_in(self) -> None:
        """Check what a method has filled; where it put arrays of its own in place, copy them."""
        for name, own in self._own.items():
            given = getattr(self, name)
            if given is not own:
                array = np.asarray(given)
                if array.shape != own.shape or not np.can_cast(array.dtype, own.dtype, "same_kind"):
                    raise WrongResult(f"{name} {array.dtype} {array.shape}, where {own.dtype} {own.shape} is wanted")
                own[...] = array
                setattr(self, name, own)
        space = self.spec.observation_space
        if (index := space.find_wrong(self.observation)) is not None:
            wrong = self.observation[index]
            raise WrongResult(f"the observation {wrong} in slot {index[0]}, which is none of {space.values}")
        if not np.isfinite(self.reward).all():
            slot = int(np.flatnonzero(~np.isfinite(self.reward))[0])
            raise WrongResult(f"the reward {self.reward[slot]} in slot {slot}")

    def _forget_outcome(self) -> None:
        for name in _OUTCOME:
            self._own[name][:] = 0

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of all that decides what follows: attributes that are arrays or numbers.

        Arrays of types that messages do not have are handed out as bytes, under a name that says the type.
        """
        state: dict[str, NDArray[Any]] = {}
        for name, array in self._kept().items():
            if name == "observation" or array.dtype in _IN_MESSAGES:
                state[name] = array.copy()
            else:
                state[f"{_BYTES}{array.dtype.name}/{name}"] = np.frombuffer(array.tobytes(), np.uint8).copy()
        return {**state, "seed": np.array([self.seed], np.uint64)}

    def _kept(self) -> dict[str, NDArray[Any]]:
        """Return what a state holds, by the names of attributes, and metrics; numbers as arrays (1,)."""
        own = {name: value for name, value in vars(self).items() if name not in _NOT_STORED}
        numbers = {name: np.array([value]) for name, value in own.items() if isinstance(value, int | float)}
        arrays = {name: value for name, value in own.items() if isinstance(value, np.ndarray)}
        metrics = {f"{_METRIC}{name}": values for name, values in self.metrics.items()}
        return {
            name: array for name, array in {**numbers, **arrays, **metrics}.items() if array.dtype.kind in _STORED_KINDS
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue exactly where `state` was taken; raises EnvError when it does not fit."""
        stored = dict(_unpacked(name, array) for name, array in state.items())
        kept = self._kept()
        for name in {**kept, **stored}:
            found, now = stored.get(name), kept.get(name, np.array([getattr(self, name, None)]))
            is_array = isinstance(getattr(self, name, None), np.ndarray) or name.startswith(_METRIC)
            wrong = found is None or found.size != now.size or (is_array and found.dtype != now.dtype)
            if wrong or now.dtype.hasobject:
                raise EnvError(f"the stored worlds do not fit '{self.spec.id}': '{name}' is missing or another array")
        for name, found in stored.items():
            if name.startswith(_METRIC):
                self.metrics[name.removeprefix(_METRIC)][:] = found
            elif isinstance(now := getattr(self, name), np.ndarray):
                now[...] = found.reshape(now.shape)
            else:
                setattr(self, name, found.item())
        self._forget_outcome()

    def snapshot(self, world: int) -> dict[str, Any]:
        """Return one world as it stands, in plain values: its agents' observations, unless a subclass says more."""
        return observed(self.observation[self.slots(np.array([world]))])

    def close(self) -> None:  # noqa: B027
        """Free what the worlds hold; a subclass may have something."""


def _plain(snapshot: Callable[[Any, int], Any]) -> Callable[[Any, int], dict[str, Any]]:
    """Return a `snapshot` whose values JSON has; those of NumPy become plain ones. Raises EnvError."""

    @wraps(snapshot)
    def called(worlds: Worlds, world: int) -> dict[str, Any]:
        with worlds._calling("snapshot"):
            found = snapshot(worlds, world)
            if not isinstance(found, dict):
                raise WrongResult(f"a {type(found).__name__}, where a dictionary is wanted")
            plain: dict[str, Any] = json.loads(json.dumps(found, default=_as_plain))
            return plain

    return called


def _as_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise WrongResult(f"a {type(value).__name__}, which JSON does not have")


def _harmless(close: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a `close` of which nothing is raised: the worlds have been played, and a warning says it."""

    @wraps(close)
    def called(worlds: Worlds) -> None:
        try:
            with worlds._calling("close"):
                close(worlds)
        except EnvError as error:
            warnings.warn(str(error), stacklevel=2)

    return called
