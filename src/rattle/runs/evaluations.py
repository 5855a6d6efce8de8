"""Evaluations of a run: some of its policies play fresh games in a thread during training, which learns from none.

Environment steps decide which versions are evaluated, and the run's seed and the version decide their games. So a run
has the same evaluations however fast they are played, and wherever it was resumed: a checkpoint holds the policies
whose evaluations are not in the tables yet.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import WorldsLost
from rattle.envs.seeds import derive_seed
from rattle.envs.vector import EnvironmentSpec, VectorWorlds
from rattle.errors import RattleError
from rattle.policies.file import StoredPolicy
from rattle.policies.spec import PolicySpec
from rattle.rollouts.evaluate import Evaluation, play_first_episodes, world_seed
from rattle.rollouts.worlds import build_worlds
from rattle.runs.checkpoint import Checkpoint
from rattle.runs.errors import RunError
from rattle.settings.experiment import ExperimentSettings

Weights = Mapping[str, NDArray[np.float32]]

#: Losses of worlds in a row that an evaluation puts up with.
_MOST_LOSSES = 10
#: How often who waits for an evaluation looks whether the run is to stop, in seconds.
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Evaluated:
    """The policy of an evaluation, and how far it had been trained."""

    policy_version: int
    env_steps: int
    seconds: float


@dataclass(frozen=True)
class _Pending:
    of: Evaluated
    weights: Weights
    played: Future[Evaluation]


class _Stopped(Exception):
    """The thread was told to stop."""


class Evaluations:
    """Has policies of a run evaluated, and hands out the result in their order; without `every_steps`, none."""

    def __init__(
        self,
        settings: ExperimentSettings,
        policy: PolicySpec,
        environment: EnvironmentSpec,
        write: Callable[[Evaluated, Weights, Mapping[str, Any]], None],
    ) -> None:
        """`write` gets each policy with its row of `evaluations`. Raises RattleError where no worlds can be made."""
        self._settings = settings
        self._own = settings.evaluation
        self._policy = policy
        self._environment = environment
        self._write = write
        self._pending: deque[_Pending] = deque()
        self._stop = threading.Event()
        #: Asked while evaluations are waited for: true leaves them to the next checkpoint.
        self.wants_stop: Callable[[], bool] = lambda: False
        #: Whether a server that is down is waited for until it is back, as actors of services do.
        self.waits_for_ever = False
        self.are_made = self._own.every_steps is not None
        if self.are_made:
            self._worlds: VectorWorlds = build_worlds(settings, self._own.episodes, 0, self._stop, seed=0)
            self._thread = ThreadPoolExecutor(1, "evaluation")

    def follow(self, made: Evaluated, steps_before: int, weights: Callable[[], Weights]) -> None:
        """Take in an update: the policy that it made is evaluated if a multiple of `every_steps` was reached in it.

        Where an evaluation is due before the one before has been played, training waits. Raises what stopped one.
        """
        every = self._own.every_steps
        self._collect()
        if every is not None and steps_before // every < made.env_steps // every:
            self.finish()
            self._begin(made, weights())

    def finish(self) -> None:
        """Wait for the evaluations in progress, unless the run is to stop; raises what stopped one."""
        while self._pending and not self.wants_stop():
            wait([self._pending[0].played], _LOOK_SECONDS)
            self._collect()

    def state(self) -> tuple[dict[str, dict[str, NDArray[Any]]], list[dict[str, Any]]]:
        """Return the weights, which nobody changes, and the rest of the policies whose rows are not written yet."""
        parts = {f"evaluation-{number}": dict(one.weights) for number, one in enumerate(self._pending)}
        return parts, [asdict(one.of) for one in self._pending]

    def restore(self, checkpoint: Checkpoint) -> None:
        """Begin what a checkpoint has pending, unless the run evaluates nothing any more."""
        pending = checkpoint.numbers.get("evaluations", ()) if self.are_made else ()
        for number, one in enumerate(pending):
            self._begin(Evaluated(**one), checkpoint.part(f"evaluation-{number}"))

    def close(self) -> None:
        """Stop the thread and free the worlds."""
        self._stop.set()
        if self.are_made:
            self._thread.shutdown(cancel_futures=True)
            self._worlds.close()

    def _begin(self, made: Evaluated, weights: Weights) -> None:
        environment = self._environment
        policy = StoredPolicy(self._policy, weights, made.policy_version, environment.id, environment.settings)
        self._pending.append(_Pending(made, weights, self._thread.submit(self._play, policy)))

    def _collect(self) -> None:
        """Write down what has been played."""
        while self._pending and (one := self._pending[0]).played.done():
            self._write(one.of, one.weights, self._row(one.of, one.played.result()))
            self._pending.popleft()

    def _play(self, policy: StoredPolicy) -> Evaluation:
        play = self._play_despite_losses
        if self.waits_for_ever and self._settings.env.url is not None:
            from rattle.clients.retries import retry_forever

            play = retry_forever(self._stop).wraps(play)
        try:
            played = play(policy)
        except RattleError as error:
            raise RunError(f"the evaluation of policy version {policy.version} failed: {error}") from error
        if not np.isfinite(played.total_reward).all():
            raise RunError(f"the evaluation of policy version {policy.version} failed: a return is not a finite number")
        return played

    def _play_despite_losses(self, policy: StoredPolicy) -> Evaluation:
        """Play the games of a version, again from their start where a server has lost them."""
        own, seed = self._own, self._seed(policy.version)
        for left in reversed(range(_MOST_LOSSES)):
            try:
                self._worlds.reset(world_seed(seed))
                return play_first_episodes(
                    policy, self._worlds, seed=seed, greedy=own.greedy, max_ticks=own.max_ticks, watch=self._go_on
                )
            except WorldsLost:
                if not left:
                    raise
        raise AssertionError

    def _go_on(self, _tick: int, _ended: float) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _seed(self, version: int) -> int:
        """Return what decides the games of a version's evaluation, as `rattle eval --seed` takes it."""
        return derive_seed(self._settings.seed, "evaluation", version) >> 1

    def _row(self, of: Evaluated, played: Evaluation) -> dict[str, Any]:
        """Return a row of the table `evaluations`, less what all rows of a run share."""
        summary = played.summary()
        columns = ("episodes", "cut_episodes", "mean_return", "std_return", "min_return", "max_return")
        return {
            **asdict(of),
            "seed": self._seed(of.policy_version),
            "greedy": self._own.greedy,
            **{name: summary[name] for name in columns},
            "mean_episode_length": summary["mean_length"],
            "metrics": {name: summary[f"mean_{name}"] for name in played.metrics},
        }
