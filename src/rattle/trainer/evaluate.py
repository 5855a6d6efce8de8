"""Evaluation: fresh episodes of a policy that learns nothing from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rattle.addresses import keep_credentials
from rattle.analytics.run_directory import RUNS_ROOT, RunDirectory, find_run
from rattle.envs.errors import NotImported, UnknownEnvironment
from rattle.envs.philox import derive_seed
from rattle.envs.registry import make_worlds
from rattle.envs.vector import VectorWorlds
from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.policies.file import Policy, load_policy
from rattle.trainer.errors import SettingsError, TrainerError
from rattle.trainer.served import serve_worlds
from rattle.trainer.settings import EnvironmentSection
from rattle.trainer.settings_sources import read_yaml

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


class FoundPolicy(NamedTuple):
    """A policy, and what is known of it by the name that it was found under."""

    policy: Policy
    path: Path
    own: bool  # found as a run
    url: str | None = None  # of the server that the run played at

    @property
    def may_import(self) -> bool:
        """Whether it lies in a run directory, whose environment may name a module to import."""
        return RunDirectory(self.path.parent).is_run

    def url_for(self, environment: str | None) -> str | None:
        """Return the server that plays it where nobody names one: the run's, unless another environment is wanted."""
        return self.url if environment is None else None


def find_policy(name: str, *, best: bool = False) -> FoundPolicy:
    """Find a policy by policy file or by run, whose newest or `best` it is; raises RattleError when there is none."""
    path, own, url = Path(name), False, None
    if not path.is_file():
        run = find_run(name, RUNS_ROOT)
        path, own, url = run.best_policy if best else run.policy, True, _url_of(run)
        if best and not path.exists():
            raise TrainerError(f"{run.path} has no best policy yet: the first checkpoint after 100 episodes stores one")
    elif best:
        raise TrainerError(f"{path} is a policy file: --best wants the run that it belongs to")
    try:
        return FoundPolicy(load_policy(path.read_bytes()), path, own, url)
    except OSError as error:
        raise TrainerError(f"cannot read {path}: {error.strerror}") from None
    except PolicyError as error:
        raise TrainerError(f"{path}: {error}") from None


def _url_of(run: RunDirectory) -> str | None:
    """Return the environment server that a run played at, None where it played in its own process or does not say."""
    try:
        section = read_yaml(run.config).get("env")
    except SettingsError:
        return None  # its policy can be played all the same
    url = section.get("url") if isinstance(section, dict) else None
    try:
        return keep_credentials(url) if isinstance(url, str) else None
    except ValueError as error:
        raise TrainerError(f"{run.config}: env.url: {error}") from None


def evaluate(
    policy: Policy,
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
    world_seed = derive_seed(seed, "evaluation worlds")
    played = environment or policy.environment
    own = policy.environment_settings if played == policy.environment else {}
    if url is not None:
        try:
            url = keep_credentials(url)
        except ValueError as error:
            raise TrainerError(str(error)) from None
        env = EnvironmentSection.model_validate({**own, "id": played, "url": url})
        worlds = serve_worlds(env, episodes, world_seed, 0)
    else:
        worlds = _make_worlds(played, own, episodes, world_seed, allow_imports=allow_imports or environment is not None)
    acting = ActingPolicy(policy.spec, policy.parameters, derive_seed(seed, "evaluation actions"))
    try:
        _check_fit(policy, worlds)
        total, length, metrics, cut = _play_first_episodes(worlds, acting, max_ticks, watch, greedy=greedy)
    finally:
        worlds.close()
    return Evaluation(policy.version, played, episodes, total, length, metrics, cut)


def _make_worlds(
    environment: str, settings: Mapping[str, Any], episodes: int, seed: int, *, allow_imports: bool
) -> VectorWorlds:
    """Make worlds in this process; an error says what a user can give instead."""
    try:
        return make_worlds(environment, settings, episodes, seed, allow_imports=allow_imports)
    except NotImported as error:
        raise TrainerError(f"{error}: trust it with --env {environment}") from None
    except UnknownEnvironment as error:
        raise TrainerError(f"{error}. If a server plays it, give its address with --url") from None


def _check_fit(policy: Policy, worlds: VectorWorlds) -> None:
    actions, known = worlds.spec.num_actions, policy.spec.num_actions
    if actions != known:
        raise TrainerError(f"this policy has {known} actions, and {worlds.spec.id} has {actions}")


def _play_first_episodes(
    worlds: VectorWorlds, acting: ActingPolicy, max_ticks: int, watch: Watch | None, *, greedy: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64], dict[str, NDArray[np.int32]], int]:
    slots = worlds.num_slots
    action, log_prob = np.zeros(slots, np.int64), np.zeros(slots, np.float32)
    value = np.zeros(slots, np.float32)
    total, length = np.zeros(slots, np.float64), np.zeros(slots, np.int64)
    metrics = {name: np.zeros(slots, np.int32) for name in worlds.spec.metrics}
    playing = np.ones(slots, np.bool_)
    for tick in range(max_ticks):
        acting.act(worlds.observation, tick=tick, greedy=greedy, action=action, log_prob=log_prob, value=value)
        worlds.step(action)
        total[playing] += worlds.reward[playing]
        length[playing] += 1
        ended = playing & (worlds.terminated | worlds.truncated)
        for name, values in worlds.final_metrics.items():
            metrics[name][ended] = values[ended]
        playing &= ~ended
        if watch is not None:
            watch(tick + 1, 1 - np.count_nonzero(playing) / slots)
        if not playing.any():
            break
    for name, values in worlds.metrics.items():
        metrics[name][playing] = values[playing]
    return total, length, metrics, int(np.count_nonzero(playing))
