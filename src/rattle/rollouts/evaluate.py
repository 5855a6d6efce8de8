"""Evaluation: fresh episodes of a policy that learns nothing from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.addresses import keep_credentials
from rattle.envs.errors import NotImported, UnknownEnvironment
from rattle.envs.registry import make_worlds
from rattle.envs.seeds import derive_seed
from rattle.envs.vector import VectorWorlds
from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy
from rattle.rollouts.remote_env import open_remote_worlds
from rattle.rollouts.waiting import standing_still
from rattle.settings.errors import SettingsError
from rattle.settings.experiment import EnvironmentSection

#: Episodes that go on for longer are counted as they stand: an environment need not ever end one.
MAX_TICKS = 100_000

#: Told after each tick: how many have been played, and the share of the agents' episodes that have ended.
Watch = Callable[[int, float], None]


@dataclass(frozen=True)
class Evaluation:
    """What agents' episodes came to; every array has one entry an agent's episode."""

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
    max_ticks: int = MAX_TICKS,
    watch: Watch | None = None,
) -> Evaluation:
    """Play each world's first episode; the worlds are never those of a training run, whatever its seed.

    A policy says which environment it plays; only with `allow_imports` may that name a module to import. One that the
    caller names takes its place. With `url` the worlds are those of an environment server, which must serve the same
    environment. Episodes that go on for longer than `max_ticks` are cut, and count as they stand.

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
        worlds = _make_worlds(played, own, episodes, world_seed(seed), allow_imports=allowed)
    with closing(worlds):
        return play_first_episodes(policy, worlds, seed=seed, greedy=greedy, max_ticks=max_ticks, watch=watch)


def world_seed(seed: int) -> int:
    """Return the seed of the worlds in which an evaluation of a seed is played."""
    return derive_seed(seed, "evaluation worlds")


def _make_worlds(
    environment: str, settings: Mapping[str, Any], episodes: int, seed: int, *, allow_imports: bool
) -> VectorWorlds:
    """Make worlds in this process; an error says what a user can give instead."""
    try:
        return make_worlds(environment, settings, episodes, seed, allow_imports=allow_imports)
    except NotImported as error:
        raise SettingsError(f"{error}: trust it with --env {environment}") from None
    except UnknownEnvironment as error:
        raise SettingsError(f"{error}. If a server plays it, give its address with --url") from None


def play_first_episodes(
    policy: StoredPolicy,
    worlds: VectorWorlds,
    *,
    seed: int,
    greedy: bool,
    max_ticks: int = MAX_TICKS,
    watch: Watch | None = None,
) -> Evaluation:
    """Play on until each world's episode in progress has ended, and return what came of it.

    The worlds are at the start of episode 0 of `world_seed(seed)`. Raises PolicyError where the policy does not fit.
    """
    actions, known = worlds.spec.action_space, policy.spec.action
    if (actions.kind, actions.shape, actions.choices) != (known.kind, known.shape, known.choices):
        raise PolicyError(f"this policy acts with {known.values}, and {worlds.spec.id} takes {actions.values}")
    acting = ActingPolicy(policy.spec, policy.parameters, derive_seed(seed, "evaluation actions"))
    slots = worlds.num_slots
    action, log_prob, value = actions.zeros(slots), *np.zeros((2, slots), np.float32)
    total, length = np.zeros(slots, np.float64), np.zeros(slots, np.int64)
    metrics = {name: np.zeros(slots, np.int32) for name in worlds.spec.metrics}
    playing = np.ones(slots, np.bool_)
    size = acting.spec.memory_size
    memory = np.zeros((slots, size), np.float32) if size else None
    first = worlds.episode.copy()
    for tick in range(max_ticks):
        with standing_still(memory, ~worlds.active):
            acting.act(
                worlds.observation,
                tick=tick,
                greedy=greedy,
                action=action,
                log_prob=log_prob,
                value=value,
                state=memory,
            )
        length += playing & worlds.active
        worlds.step(action)
        total[playing] += worlds.reward[playing]
        ended = playing & (worlds.terminated | worlds.truncated)
        for name, values in worlds.final_metrics.items():
            metrics[name][ended] = values[ended]
        playing &= ~ended & np.repeat(worlds.episode == first, worlds.spec.agents_per_world)
        if watch is not None:
            watch(tick + 1, 1 - np.count_nonzero(playing) / slots)
        if not playing.any():
            break
    for name, values in worlds.metrics.items():
        metrics[name][playing] = values[playing]
    cut = int(np.count_nonzero(playing))
    moved = length > 0  # an agent may have had no turn
    metrics = {name: values[moved] for name, values in metrics.items()}
    return Evaluation(policy.version, worlds.spec.id, worlds.num_worlds, total[moved], length[moved], metrics, cut)
