"""An environment is tried out: a few episodes are played before anything depends on them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

import msgspec
import numpy as np

from rattle.envs.errors import EnvError, WorldsLost
from rattle.envs.registry import make_groups, make_worlds
from rattle.envs.seeds import derive_seed
from rattle.envs.vector import EnvironmentSpec, Vector, VectorWorlds
from rattle.text import one_line, with_article
from rattle.wire import encoding
from rattle.wire.vector import dump_environment

#: Ticks that an environment is played before its run begins, so that its mistakes leave no run behind.
_TICKS_TRIED = 32
#: A slow one plays fewer of them in these seconds.
_TRIED_SECONDS = 5.0
#: A quick one plays more, to see whether it repeats itself: so many episodes, ticks or seconds, whichever come first.
_EPISODES, _MOST_TICKS, _MOST_SECONDS = 10, 1024, 0.2

#: Makes so many worlds: the agents of each policy in them, "main" where one plays all.
Make = Callable[[int], Mapping[str, VectorWorlds]]


class TriedGame(msgspec.Struct):
    """An environment as an experiment has it, without the number of its worlds."""

    environment: str
    settings: dict[str, Any]
    policies: dict[str, str]  # patterns of agents' names, and who plays them
    vector: Vector
    seed: int  # of the worlds

    def make(self, worlds: int) -> Mapping[str, VectorWorlds]:
        """Make so many worlds; return the agents of each policy, "main" where one plays all. Raises EnvError."""
        if self.policies:
            return make_groups(self.environment, self.settings, self.policies, worlds, self.seed)
        return {"main": make_worlds(self.environment, self.settings, worlds, self.seed, vector=self.vector)}


class TryOut(msgspec.Struct):
    """How a game is tried out in another process; see `try_out`."""

    game: TriedGame
    seed: int
    plays: bool
    beside: bool


class TriedOut(msgspec.Struct):
    """The result."""

    environments: dict[str, str]  # as messages describe them
    repeats: bool


def answer(request: bytes) -> TriedOut:
    """Do what a TryOut says; raises EnvError."""
    asked = encoding.msgpack.decode(request, TryOut)
    environments, repeats = try_out(asked.game.make, asked.seed, plays=asked.plays, beside=asked.beside)
    return TriedOut({policy: dump_environment(spec) for policy, spec in environments.items()}, repeats)


def try_out(make: Make, seed: int, *, plays: bool, beside: bool) -> tuple[dict[str, EnvironmentSpec], bool]:
    """Play the first episodes of a world, twice, and once `beside` another; raises RattleError where that cannot be.

    Returns what it is to the agents of each policy, "main" where one plays all, and whether it repeats itself: a resume
    cannot play the episodes of one that does not again to where they were. Unless it `plays`, a world is only begun.
    """
    with ExitStack() as stack:
        groups = make(1)
        worlds = [stack.enter_context(closing(group)) for group in groups.values()]
        environments = {policy: group.spec for policy, group in groups.items()}
        if not plays:
            return environments, True
        first = _first_ticks(worlds, seed)
        repeats = _repeats(worlds, seed, first)
    if repeats and beside and all(spec.batch is None for spec in environments.values()):
        with ExitStack() as stack:  # a generator that worlds share shows where they take turns
            two = [stack.enter_context(closing(group)) for group in make(2).values()]
            repeats = _repeats(two, seed, first)
    return environments, repeats


def _first_ticks(worlds: Sequence[VectorWorlds], seed: int) -> list[bytes]:
    """Return what happens in each of the first ticks: of a few episodes, as far as they take no time.

    Raises RattleError for what goes wrong at once. What goes wrong later is left to the run, which keeps its traceback.
    """
    began, ticks = time.monotonic(), list[bytes]()
    try:
        for happened in _ticks(worlds, seed):
            if len(ticks) <= _TICKS_TRIED:
                for group in worlds:
                    _check_finite(group, f"in tick {len(ticks) - 1}" if ticks else "at the start")
            ticks.append(happened)
            seconds = time.monotonic() - began
            more = len(ticks) < _MOST_TICKS and worlds[0].episode[0] < _EPISODES and seconds < _MOST_SECONDS
            if not more and (len(ticks) > _TICKS_TRIED or seconds >= _TRIED_SECONDS):
                break
    except WorldsLost:  # by a server that was started again just now
        pass
    except EnvError:
        if len(ticks) <= _TICKS_TRIED:
            raise
    return ticks


def _repeats(worlds: Sequence[VectorWorlds], seed: int, first: Sequence[bytes]) -> bool:
    """Whether the first world's ticks are the `first` ones once more; so they are where it cannot be played again."""
    try:
        for group in worlds:
            group.reset(derive_seed(seed, "worlds"))
        return all(before == now for before, now in zip(first, _ticks(worlds, seed), strict=False))
    except EnvError:
        return True


def _ticks(worlds: Sequence[VectorWorlds], seed: int) -> Iterator[bytes]:
    """Play on, with actions that depend on the seed alone, and yield a hash of what happens to the first world.

    `worlds` are the agents of each policy in the same worlds.
    """
    random = np.random.default_rng(seed)
    while True:
        seen = [
            array[: group.spec.agents_per_world].tobytes()
            for group in worlds
            for array in (group.observation, group.reward, group.terminated, group.truncated)
        ]
        yield hashlib.blake2b(b"".join(seen), digest_size=16).digest()
        for group in worlds:
            space = group.spec.action_space
            actions = np.concatenate([space.draw(random, group.spec.agents_per_world)] * group.num_worlds)
            group.step(group.spec.observation_space.allow(group.observation, actions, space.choices))


def _check_finite(worlds: VectorWorlds, when: str) -> None:
    """Raise EnvError for a reward or an observation that is not finite; they would end the run later."""
    for what, array in (("reward", worlds.reward), ("observation", worlds.observation)):
        for agent, row in enumerate(array):
            if not np.isfinite(row).all():
                whose = f" of agent {agent}" if worlds.spec.agents_per_world > 1 else ""
                raise EnvError(
                    f"'{worlds.spec.id}' hands out {with_article(what)}{whose} that is not finite, or too large "
                    f"for float32, {when} of its first episodes: {one_line(row, 80)}"
                )
