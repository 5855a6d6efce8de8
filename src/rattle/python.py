"""Training, playing and reading runs from Python: what `import rattle` offers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.extras import require
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.run_directory import find_run as find_directory
from rattle.envs.registry import make_worlds
from rattle.envs.seeds import derive_seed
from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.rollouts.evaluate import MAX_TICKS, Evaluation, evaluate_together
from rattle.rollouts.evaluate import evaluate as evaluate_policy
from rattle.runs.find_policy import FoundPolicy, find_policy
from rattle.runs.progress import Progress, Summary
from rattle.settings.errors import SettingsError
from rattle.text import one_line

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Evaluation", "Policy", "Progress", "Run", "evaluate", "find_run", "load_policy", "make_worlds", "train"]


class Policy:
    """A policy that chooses actions, one row or a batch at a time."""

    def __init__(self, found: FoundPolicy, seed: int = 0) -> None:
        self._found = found
        self._stored = found.policy
        self._acting = ActingPolicy(self._stored.spec, self._stored.parameters, derive_seed(seed, "actions"))
        self._tick = 0

    @property
    def version(self) -> int:
        """Return the number of updates that made it."""
        return self._stored.version

    @property
    def environment(self) -> str:
        """Return the id of the environment that it was trained in."""
        return self._stored.environment

    @property
    def memory_size(self) -> int:
        """Return how many numbers it remembers from one tick to the next; 0 where it has no memory."""
        return self._stored.spec.memory_size

    def act(self, observation: Any, *, greedy: bool = False, state: Any = None, reward: Any = 0.0) -> Any:
        """Return an action for an observation, or actions (N, ...) for a batch of N observations, within their bounds.

        An observation is a row of the environment's space: numbers (size,), or an image such as (84, 84, 3).

        Whole numbers are an int, or int64 (N,); others rows of the action space, such as float32 (3,) or (N, 3).

        Actions are drawn, another one at each call; with `greedy` they are the most probable ones. A policy with memory
        returns the action and its next state, float32 (memory_size,) or (N, memory_size): hand that to the next call,
        and None where an episode begins. Hand over the `reward` of the last tick too, a number or (N,), where a policy
        sees it (`policy.inputs`). Raises PolicyError for observations of another environment.
        """
        rows, is_batch = self._rows(observation)
        space = self._stored.spec.action
        action = space.zeros(len(rows))
        log_prob, value = np.zeros((2, len(rows)), np.float32)
        memory = np.zeros((len(rows), self.memory_size), np.float32)
        if state is not None and not self.memory_size and np.size(state):
            raise PolicyError("this policy has no memory: leave state out")
        if state is not None:
            memory[:] = _filled("state", state, memory.shape)
            self._acting.own.rewarded(memory, _filled("reward", reward, (len(rows),)))
        self._acting.act(
            rows, tick=self._tick, greedy=greedy, action=action, log_prob=log_prob, value=value, state=memory
        )
        self._tick += 1
        bounded = space.bound(action)
        actions = bounded if is_batch else bounded[0] if space.shape else bounded[0].item()
        return actions if not self.memory_size else (actions, memory if is_batch else memory[0])

    def value(self, observation: Any) -> Any:
        """Return the predicted return of an observation, or float32 (N,) of a batch; 0 without a value head."""
        rows, is_batch = self._rows(observation)
        values = self._acting.values(rows)
        return values if is_batch else float(values[0])

    def _rows(self, observation: Any) -> tuple[NDArray[Any], bool]:
        """Return observations as a batch of the dtype that the policy takes, and whether they came as a batch."""
        space = self._stored.spec.observation
        try:
            given = np.asarray(observation)
            if given.dtype.kind not in "biuf":  # None or a text would become numbers
                raise self._unfit(one_line(repr(observation), 80))
            rows = given.astype(space.dtype, copy=False)
        except (TypeError, ValueError):  # such as a dictionary, or rows of different lengths
            raise self._unfit(one_line(repr(observation), 80)) from None
        is_batch = given.ndim > len(space.shape)
        rows = rows if is_batch else rows.reshape(1, *(rows.shape or (1,)))
        if rows.dtype.kind != "f":
            if not np.array_equal(rows.ravel(), given.ravel()):
                raise self._unfit(one_line(repr(observation), 80))
        elif rows.shape[1:] == space.shape and (place := space.find_wrong(rows)) is not None:
            raise self._unfit(rows[place])
        return rows, is_batch

    def _unfit(self, got: object) -> PolicyError:
        return PolicyError(f"this policy takes {self._stored.spec.observation.values}, got {got}")


def _filled(name: str, values: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return float32 of a shape, of which one row or one number may stand for all; raises PolicyError."""
    try:
        return np.broadcast_to(np.asarray(values, np.float32), shape)
    except (TypeError, ValueError):
        got = getattr(values, "shape", None)
        said = one_line(repr(values), 80) if got is None else f"an array {got}"
        raise PolicyError(f"{name} must be float32 {shape}, got {said}") from None


@dataclass(frozen=True)
class Run:
    """A stored run with its policies and tables, which can be resumed."""

    path: Path

    @property
    def _directory(self) -> RunDirectory:
        return RunDirectory(self.path)

    @property
    def summary(self) -> dict[str, Any]:
        """Return its row of the table `runs`: status, steps, mean return and so on."""
        from rattle.runs.run_tables import read_run_row

        return read_run_row(self._directory)

    def policy(self, *, best: bool = False, seed: int = 0) -> Policy:
        """Return its newest policy, or its best by mean return; `seed` decides what the policy draws."""
        return Policy(find_policy(str(self.path), best=best), seed)

    def table(self, name: str) -> pyarrow.Table:
        """Return one of its tables: such as `updates` or `evaluations`. A DataFrame: `.to_pandas()`."""
        return self.query(f"SELECT * FROM {name}")  # noqa: S608 (a query can only read)

    def query(self, sql: str) -> pyarrow.Table:
        """Return the answer to a statement over its tables."""
        from rattle.analytics.query import arrow

        if not isinstance(sql, str):
            raise AnalyticsError(f"a query is one SQL statement, got {one_line(repr(sql), 80)}")
        return arrow(sql, [self._directory])

    def resume(
        self,
        *,
        steps: int | None = None,
        seconds: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        allow_changed_code: bool = False,
    ) -> Run:
        """Continue from the newest checkpoint up to so many steps in all, or for so many seconds; returns the run.

        Your code that has changed since the run began is refused unless that is allowed.
        """
        from rattle.trainer.train import resume

        _check_least(steps=steps, seconds=seconds)
        resume(str(self.path), steps, seconds, _Callback(on_progress), allow_changed_code=allow_changed_code)
        return self


def train(
    experiment: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int | None = None,
    run_dir: str | Path | None = None,
    begin_with: str | Path | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> Run:
    """Train a policy in this process, as `rattle train` does, and return the run.

    `experiment` is a YAML file or the name of one that comes with Rattle; `settings` go over it, by section or by key:
    `{"env.id": "gym:CartPole-v1", "algorithm": {"id": "ppo"}}`. `begin_with` is a run or a policy file whose weights it
    learns on from; without an experiment it is that run's. `on_progress` is called after every update, so it must
    return at once. Without a limit it trains until Ctrl-C, which stores a checkpoint. Raises RattleError.
    """
    for module in ("torch", "pyarrow"):
        require(module, "train", "training")
    from rattle.rollouts.complete import complete
    from rattle.runs.first_policy import load_settings_from
    from rattle.settings.experiment_files import find_experiment
    from rattle.trainer.train import train as start

    if isinstance(experiment, Mapping):
        raise SettingsError("an experiment is a file or a name: give settings by name, rattle.train(settings={...})")
    if not isinstance(settings or {}, Mapping):
        raise SettingsError(f"settings are given by name, such as {{'seed': 1}}, got {one_line(repr(settings), 80)}")
    path = None if experiment is None else find_experiment(str(experiment))
    flags = {**deepcopy(dict(settings or {})), "train.steps": steps, "train.seconds": seconds, "seed": seed}
    origin = None if begin_with is None else str(begin_with)
    chosen = complete(load_settings_from(origin, path, (), os.environ, flags))
    summary = start(chosen, None if run_dir is None else Path(run_dir), _Callback(on_progress))
    return Run(Path(summary.run_dir))


def find_run(name: str | Path = "latest") -> Run:
    """Return a stored run by its directory, its run_id (its beginning is enough) or `latest`; raises RattleError."""
    return Run(find_directory(str(name)).path)


def load_policy(name: str | Path = "latest", *, best: bool = False, seed: int = 0) -> Policy:
    """Return the policy in a policy file or of a run; `seed` decides what it draws; raises RattleError."""
    return Policy(find_policy(str(name), best=best), seed)


def evaluate(
    policy: Policy,
    episodes: int = 100,
    *,
    seed: int = 0,
    greedy: bool = False,
    environment: str | None = None,
    max_ticks: int = MAX_TICKS,
) -> Evaluation:
    """Play fresh games with a policy, one in each of so many worlds, and return the results.

    A run that was played at a server is evaluated there. `environment` takes the place of the one that the policy was
    trained in, and is played in this process. Where several policies play the agents of the same worlds, the others
    take part with their newest versions, or their best. Raises RattleError.
    """
    if not isinstance(policy, Policy):
        raise PolicyError(f"evaluate takes a policy, got {one_line(repr(policy), 80)}: use rattle.load_policy(NAME)")
    _check_least(episodes=episodes, max_ticks=max_ticks)
    found = policy._found
    if found.together and environment is None:
        played = evaluate_together(
            found.together, found.patterns, episodes, seed=seed, greedy=greedy, max_ticks=max_ticks
        )
        return next(played[name] for name, one in found.together.items() if one is found.policy)
    return evaluate_policy(
        found.policy,
        episodes,
        seed=seed,
        greedy=greedy,
        environment=environment,
        allow_imports=found.may_import,
        url=found.url_for(environment),
        max_ticks=max_ticks,
    )


def _check_least(**numbers: object) -> None:
    """Raise SettingsError for numbers, by name, that are not above 0; seconds may be a fraction, None is no number."""
    for name, number in numbers.items():
        kinds, wanted = (Real, "a number above 0") if name == "seconds" else (Integral, "a whole number from 1 on")
        if number is not None and not (isinstance(number, kinds) and number > 0):  # type: ignore[operator]
            raise SettingsError(f"{name}: {wanted} is wanted, got {one_line(repr(number), 80)}")


class _Callback:
    """A display that shows nothing and tells a function of every update."""

    def __init__(self, call: Callable[[Progress], object] | None) -> None:
        if not callable(call) and call is not None:
            raise SettingsError(f"on_progress must be a function, got {one_line(repr(call), 80)}")
        self._call = call

    def start(self, run_id: str, run_dir: str, resumed_at: int | None) -> None:
        """Do nothing."""

    def update(self, progress: Progress) -> None:
        """Hand over where the run stands."""
        if self._call is not None:
            self._call(progress)

    def finish(self, summary: Summary | None) -> None:
        """Do nothing."""
