"""What an environment is, by playing a little of it: for `rattle inspect`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.vector import EnvironmentSpec, VectorWorlds, random_actions
from rattle.errors import RattleError
from rattle.events import of_runs
from rattle.rollouts.complete import complete
from rattle.rollouts.worlds import build_worlds, check_one_policy, game_of_others, policy_spec, try_out
from rattle.samples.spaces import ActionSpace, BoxSpace
from rattle.settings.defaults import SECTIONS, not_given
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.policy import PolicySection
from rattle.text import one_line
from rattle.wire import encoding
from rattle.workers.apart import ask_apart
from rattle.workers.trial import TriedGame

#: Most episodes of games that have an end are over in so many ticks.
_LONG = 1000


@dataclass
class NumberRange:
    """Numbers as they come, as far as they can be told in few words."""

    count: int = 0
    total: float = 0.0
    least: float | None = None
    most: float | None = None

    def add(self, values: NDArray[Any]) -> None:
        """Take in some more."""
        if not values.size:
            return
        least, most = float(values.min()), float(values.max())
        self.count += values.size
        self.total += float(values.sum(dtype=np.float64))
        self.least = least if self.least is None else min(self.least, least)
        self.most = most if self.most is None else max(self.most, most)

    @property
    def mean(self) -> float | None:
        """Return the mean, None of nothing."""
        return self.total / self.count if self.count else None

    def summary(self) -> dict[str, float | None]:
        """Return the least, the mean and the most."""
        return {"min": self.least, "mean": self.mean, "max": self.most}

    def __str__(self) -> str:
        if self.mean is None:
            return "none"
        return f"{self.least:.4g} to {self.most:.4g}, {self.mean:.4g} on average"


@dataclass
class Play:
    """The results of random actions."""

    worlds: int
    ticks: int = 0
    seconds: float = 0.0  # of steps alone
    reward: NumberRange = field(default_factory=NumberRange)
    length: NumberRange = field(default_factory=NumberRange)  # of episodes that ended
    total: NumberRange = field(default_factory=NumberRange)  # their returns
    terminated: int = 0
    error: str | None = None

    @property
    def steps(self) -> int:
        """Return the steps of all worlds."""
        return self.ticks * self.worlds

    @property
    def steps_per_second(self) -> float | None:
        """Return how many steps of worlds a second made; None where there was none."""
        return self.steps / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Inspection:
    """What there is to say of an environment."""

    spec: EnvironmentSpec
    settings: ExperimentSettings  # with which it would be trained
    chosen: Mapping[str, Any]  # of these, what was not given and follows from what is observed, by key
    repeats: bool
    play: Play
    network: str | None
    notes: tuple[str, ...]  # what is wrong, or may help

    @property
    def failed(self) -> bool:
        """Whether it cannot be trained."""
        return self.play.error is not None or self.network is None

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield names and texts, for people."""
        spec, play = self.spec, self.play
        yield "environment", spec.id
        if spec.settings:
            yield "settings", _pairs(spec.settings)
        seen, done = spec.observation_space, spec.action_space
        yield "observes", f"{seen.values} ({seen.kind}, {seen.inputs} inputs of a network)"
        yield "does", f"{done.values}{_bounds(done)} ({done.kind}, {done.outputs} outputs of a network)"
        yield "agents", f"{spec.agents_per_world} a world"
        if spec.metrics:
            yield "metrics", ", ".join(spec.metrics)
        yield "rewards", f"{play.reward}, in {play.steps:,} steps of random actions"
        yield "episodes", self._episodes()
        if (speed := play.steps_per_second) is not None:
            yield "speed", f"{speed:,.0f} steps/s in this process, {play.worlds} worlds side by side"
        yield "repeats itself", "yes" if self.repeats else "no"
        if self.network is not None:
            yield "network", self.network
            yield "algorithm", self.settings.algorithm.id
            if self.chosen:
                yield "chosen for it", _pairs(self.chosen)
        for note in self.notes:
            yield "note", note

    def _episodes(self) -> str:
        length, ended = self.play.length, self.play.terminated
        if not length.count:
            return "none has ended"
        how = f"{ended:,} terminated, {length.count - ended:,} truncated"
        return f"{length.count:,} ended ({how}), ticks {length}, returns {self.play.total}"

    def content(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        spec, play = self.spec, self.play
        return {
            "environment": spec.id,
            "settings": dict(spec.settings),
            "observation_space": spec.observation_space.describe(),
            "action_space": spec.action_space.model_dump(mode="json"),
            "agents_per_world": spec.agents_per_world,
            "metrics": list(spec.metrics),
            "inputs": spec.observation_space.inputs,
            "outputs": spec.action_space.outputs,
            "steps": play.steps,
            "worlds": play.worlds,
            "steps_per_second": play.steps_per_second,
            "reward": play.reward.summary(),
            "episodes": play.length.count,
            "terminated": play.terminated,
            "length": play.length.summary(),
            "return": play.total.summary(),
            "repeats": self.repeats,
            "network": self.network,
            "algorithm": self.settings.algorithm.id,
            "chosen": dict(self.chosen),
            "notes": list(self.notes),
            "failed": self.failed,
        }


def inspect(given: ExperimentSettings, seconds: float) -> Inspection:
    """Play an experiment's environment for about so many seconds, and say what it is and how it would be trained.

    Raises a RattleError for an environment that cannot be had or played at all.
    """
    check_one_policy(given)
    settings = complete(given)
    specs, repeats = try_out(settings)
    spec = specs["main"]
    play = _play(settings, seconds)
    network, refused = _network(settings, spec)
    notes = [*_notes(settings, repeats, play), *refused]
    return Inspection(spec, settings, _chosen(given, spec), repeats, play, network, tuple(notes))


class PlayAtRandom(msgspec.Struct):
    """How a game is played in another process."""

    game: TriedGame
    worlds: int
    seed: int
    seconds: float


class Played(msgspec.Struct):
    """The results of random actions."""

    play: Play


def answer(request: bytes) -> Played:
    """Do what a PlayAtRandom says; raises EnvError."""
    asked = encoding.msgpack.decode(request, PlayAtRandom)
    with closing(asked.game.make(asked.worlds)["main"]) as worlds:
        return Played(play_at_random(worlds, asked.seed, asked.seconds))


def _play(settings: ExperimentSettings, seconds: float) -> Play:
    """Play an experiment's worlds with random actions: in another process those of others that would live in this."""
    if (game := game_of_others(settings)) is not None:
        request, env = PlayAtRandom(game, settings.env.worlds, settings.seed, seconds), settings.env
        played = ask_apart(__name__, request, Played, environment=env.id, answer_seconds=env.answer_seconds)
        if played is not None:
            return played.play
    with closing(build_worlds(settings, settings.env.worlds, 0)) as worlds:
        return play_at_random(worlds, settings.seed, seconds)


def _chosen(given: ExperimentSettings, spec: EnvironmentSpec) -> dict[str, Any]:
    kind = spec.observation_space.learnt_by
    sections = not_given(given, kind) if kind in SECTIONS else {}
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def play_at_random(worlds: VectorWorlds, seed: int, seconds: float) -> Play:
    """Play worlds with random actions, of those that are allowed, for so long; what fails ends it, and is told."""
    random, play = np.random.default_rng(seed), Play(worlds.num_worlds)
    length, total = np.zeros(worlds.num_slots, np.int64), np.zeros(worlds.num_slots, np.float64)
    until = time.monotonic() + seconds
    try:
        while True:
            action, acting = random_actions(worlds, random), worlds.active.copy()
            began = time.perf_counter()
            worlds.step(action)
            took = time.perf_counter() - began
            play.ticks += 1
            play.seconds += took
            if play.ticks == 1:  # which compiled what it needs
                warming = took
            length += acting
            total += worlds.reward
            play.reward.add(worlds.reward[acting])
            ended = worlds.terminated | worlds.truncated
            play.terminated += int(np.count_nonzero(worlds.terminated))
            play.length.add(length[ended])
            play.total.add(total[ended])
            length[ended], total[ended] = 0, 0
            if time.monotonic() >= until:
                break
    except EnvError as error:
        play.error = str(error)
    if play.ticks > 1:
        play.seconds = (play.seconds - warming) * play.ticks / (play.ticks - 1)
    return play


def _network(settings: ExperimentSettings, spec: EnvironmentSpec) -> tuple[str | None, list[str]]:
    """Return which network would learn it, or None and what is in the way."""
    try:
        policy = policy_spec(settings, spec)
    except RattleError as error:
        return None, [str(error)]
    except ValueError as error:
        return None, [f"no network takes what it observes: {error}"]
    if not isinstance(settings.policy, PolicySection):
        return settings.policy.network, []
    own = policy.model_dump(mode="json", exclude={"network", "observation", "action", "num_actions", "value_head"})
    return f"{policy.network}, {_pairs(own)}", []


def _notes(settings: ExperimentSettings, repeats: bool, play: Play) -> Iterator[str]:
    environment = settings.env.id
    if not repeats:
        yield str(of_runs.NotRepeating(environment=environment).sentence.format(environment=environment))
    if play.error is not None:
        yield f"after {play.steps:,} steps of random actions: {play.error}"
    elif not play.length.count:
        advice = "--set 'env.wrappers=[{use: TimeLimit, max_episode_steps: 1000}]'"
        longer = "" if play.ticks > _LONG else "look for longer with --seconds, and "
        yield f"no episode has ended in {play.ticks:,} ticks: {longer}where none ever does, cut them, as with {advice}"
    if play.reward.least == play.reward.most and play.reward.least is not None:
        yield f"every reward was {play.reward.least:g}: chance alone finds no other, so learning may take long"
    most = settings.train.max_reward
    largest = max(abs(play.reward.least or 0.0), abs(play.reward.most or 0.0))
    if most is not None and largest > most:
        yield f"a reward of {largest:g} would end a run: raise train.max_reward, or divide rewards in a wrapper"


def _bounds(space: ActionSpace) -> str:
    """Return the bounds of real numbers; those of each where they differ."""
    if not isinstance(space, BoxSpace):
        return ""
    low, high = (" ".join(f"{bound:g}" for bound in np.unique(bounds)) for bounds in space.bounds)
    return one_line(f", from {low} to {high}", 60)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
