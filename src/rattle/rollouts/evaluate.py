"""Evaluation: fresh episodes of a policy that learns nothing from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.addresses import keep_credentials
from rattle.envs.errors import NotImported, UnknownEnvironment
from rattle.envs.registry import make_groups, make_worlds
from rattle.envs.seeds import derive_seed
from rattle.envs.vector import Vector, VectorWorlds
from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy
from rattle.rollouts.remote_env import open_remote_worlds
from rattle.rollouts.waiting import standing_still
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import EnvironmentSection

#: Episodes that continue for longer are counted as they stand: an environment need not ever end one.
MAX_TICKS = 100_000

#: Told after each tick: how many have been played, and the share of the agents' episodes that have ended.
Watch = Callable[[int, float], None]


@dataclass(frozen=True)
class Evaluation:
    """The results of agents' episodes; every array has one entry for each episode of an agent."""

    policy_version: int
    environment: str
    episodes: int  # of worlds
    total_reward: NDArray[np.float64]
    length: NDArray[np.int64]
    metrics: Mapping[str, NDArray[np.int32]]
    cut_episodes: int = 0  # of agents: had not ended after the most ticks, and count as they stand

    def summary(self) -> dict[str, Any]:
        """Return means and standard deviations (of the episodes, not of the mean)."""
        columns: dict[str, NDArray[Any]] = {"return": self.total_reward, "length": self.length, **self.metrics}
        content: dict[str, Any] = {
            "environment": self.environment,
            "policy_version": self.policy_version,
            "episodes": self.episodes,
            "cut_episodes": self.cut_episodes,
        }
        for name, values in columns.items():
            content[f"mean_{name}"] = float(np.mean(values))
            content[f"std_{name}"] = float(np.std(values))
            content[f"min_{name}"] = float(np.min(values))
            content[f"max_{name}"] = float(np.max(values))
        return content


def evaluate(
    policy: StoredPolicy,
    episodes: int,
    *,
    seed: int,
    greedy: bool,
    environment: str | None = None,
    allow_imports: bool = False,
    url: str | None = None,
    vector: Vector = "never",
    max_ticks: int = MAX_TICKS,
    watch: Watch | None = None,
) -> Evaluation:
    """Play each world's first episode; the worlds are never those of a training run, whatever its seed.

    A policy says which environment it plays; only with `allow_imports` may that name a module to import. One that the
    caller names takes its place. With `url` the worlds are those of an environment server, which must serve the same
    environment. `vector` is that of `make_worlds`.
    Episodes that continue for longer than `max_ticks` are cut, and count as they stand.

    Raises a RattleError for an environment that cannot be had, or that the policy does not fit.
    """
    played = environment or policy.environment
    own = policy.environment_settings if played == policy.environment else {}
    if url is not None:
        try:
            url = keep_credentials(url)
        except ValueError as error:
            raise SettingsError(str(error)) from None
        env = EnvironmentSection.model_validate({**own, "id": played, "url": url})
        worlds = open_remote_worlds(env, episodes, world_seed(seed), 0)
    else:
        allowed = allow_imports or environment is not None
        worlds = _make_worlds(played, own, episodes, world_seed(seed), vector, allow_imports=allowed)
    with closing(worlds):
        return play_first_episodes(policy, worlds, seed=seed, greedy=greedy, max_ticks=max_ticks, watch=watch)


def world_seed(seed: int) -> int:
    """Return the seed of the worlds in which an evaluation of a seed is played."""
    return derive_seed(seed, "evaluation worlds")


def _make_worlds(
    environment: str, settings: Mapping[str, Any], episodes: int, seed: int, vector: Vector, *, allow_imports: bool
) -> VectorWorlds:
    """Make worlds in this process; an error says what a user can give instead."""
    try:
        return make_worlds(environment, settings, episodes, seed, allow_imports=allow_imports, vector=vector)
    except NotImported as error:
        raise SettingsError(f"{error}: trust it with --env {environment}") from None
    except UnknownEnvironment as error:
        raise SettingsError(f"{error}. If a server plays it, give its address with --url") from None


def evaluate_together(
    policies: Mapping[str, StoredPolicy],
    patterns: Mapping[str, str],
    episodes: int,
    *,
    seed: int,
    greedy: bool,
    max_ticks: int = MAX_TICKS,
    watch: Watch | None = None,
) -> dict[str, Evaluation]:
    """Do what `evaluate` does with policies that play the agents of the same worlds, and return what each came to.

    `patterns` of agents' names say which policy, by its name, plays whom. Raises a RattleError as `evaluate` does.
    """
    first = next(iter(policies.values()))
    groups = make_groups(first.environment, first.environment_settings, patterns, episodes, world_seed(seed))
    with ExitStack() as stack:
        for group in groups.values():
            stack.callback(group.close)
        players = [_EvaluatedPolicy(policies[name], group, seed, name) for name, group in groups.items()]
        _play(players, greedy=greedy, max_ticks=max_ticks, watch=watch)
    return {name: player.outcome() for name, player in zip(groups, players, strict=True)}


def play_first_episodes(
    policy: StoredPolicy,
    worlds: VectorWorlds,
    *,
    seed: int,
    greedy: bool,
    max_ticks: int = MAX_TICKS,
    watch: Watch | None = None,
) -> Evaluation:
    """Play on until each world's episode in progress has ended, and return the result.

    The worlds are at the start of episode 0 of `world_seed(seed)`. Raises PolicyError where the policy does not fit.
    """
    player = _EvaluatedPolicy(policy, worlds, seed)
    _play([player], greedy=greedy, max_ticks=max_ticks, watch=watch)
    return player.outcome()


def _play(players: Sequence[_EvaluatedPolicy], *, greedy: bool, max_ticks: int, watch: Watch | None) -> None:
    """Have players of the same worlds play until the episodes of all have ended."""
    for tick in range(max_ticks):
        for player in players:
            player.act(tick, greedy=greedy)
        for player in players:
            player.step()
        for player in players:
            player.take_in()
        left = sum(np.count_nonzero(player.playing) for player in players)
        if watch is not None:
            watch(tick + 1, 1 - left / sum(player.worlds.num_slots for player in players))
        if not left:
            break


class _EvaluatedPolicy:
    """A policy in the worlds of an evaluation, and the result."""

    def __init__(self, policy: StoredPolicy, worlds: VectorWorlds, seed: int, name: str = "") -> None:
        """`name` tells policies apart that play together: what they draw is their own."""
        actions, known = worlds.spec.action_space, policy.spec.action
        if (actions.shape, actions.choices) != (known.shape, known.choices):
            raise PolicyError(f"this policy acts with {known.values}, and {worlds.spec.id} takes {actions.values}")
        purpose = ("evaluation actions", name) if name else ("evaluation actions",)
        self.worlds = worlds
        self._acting = ActingPolicy(policy.spec, policy.parameters, derive_seed(seed, *purpose))
        self._version = policy.version
        slots = worlds.num_slots
        self._space, self._action = known, known.zeros(slots)
        self._log_prob, self._value = np.zeros((2, slots), np.float32)
        self._total, self._length = np.zeros(slots, np.float64), np.zeros(slots, np.int64)
        self._metrics = {name: np.zeros(slots, np.int32) for name in worlds.spec.metrics}
        self.playing = np.ones(slots, np.bool_)
        size = self._acting.spec.memory_size
        self._memory = np.zeros((slots, size), np.float32) if size else None
        self._first = worlds.episode.copy()

    def act(self, tick: int, *, greedy: bool) -> None:
        """Choose actions for a tick."""
        with standing_still(self._memory, ~self.worlds.active):
            self._acting.act(
                self.worlds.observation,
                tick=tick,
                greedy=greedy,
                action=self._action,
                log_prob=self._log_prob,
                value=self._value,
                state=self._memory,
            )
        self._length += self.playing & self.worlds.active

    def step(self) -> None:
        """Hand them to the worlds."""
        self.worlds.step(self._space.handed_over(self._action))

    def take_in(self) -> None:
        """Add up the result."""
        worlds, playing = self.worlds, self.playing
        self._total[playing] += worlds.reward[playing]
        self._acting.own.rewarded(self._memory, worlds.reward)
        ended = playing & (worlds.terminated | worlds.truncated)
        for name, values in worlds.final_metrics.items():
            self._metrics[name][ended] = values[ended]
        playing &= ~ended & np.repeat(worlds.episode == self._first, worlds.spec.agents_per_world)

    def outcome(self) -> Evaluation:
        """Return what the agents' episodes came to; those that have not ended count as they stand."""
        worlds, playing, metrics = self.worlds, self.playing, self._metrics
        for name, values in worlds.metrics.items():
            metrics[name][playing] = values[playing]
        cut = int(np.count_nonzero(playing))
        moved = self._length > 0  # an agent may have had no turn
        metrics = {name: values[moved] for name, values in metrics.items()}
        total, length = self._total[moved], self._length[moved]
        return Evaluation(self._version, worlds.spec.id, worlds.num_worlds, total, length, metrics, cut)
