"""The in-process training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rattle.analytics.run_directory import RunDirectory
from rattle.envs.errors import CannotReplay, EnvError, EnvironmentFailed, WorldsLost
from rattle.envs.logged_worlds import STATE, join_states, split_state
from rattle.envs.seeds import derive_seed
from rattle.events import of_runs
from rattle.extensions import ExtensionError
from rattle.learning.learner import UpdateMetrics
from rattle.rollouts.collector import Collector, collect_together
from rattle.rollouts.worlds import policy_spec
from rattle.runs.checkpoint import Checkpoint
from rattle.runs.episode_recorder import recorded_episodes
from rattle.runs.progress import Display, Progress, Summary
from rattle.runs.run_clock import RunClock, RunLimits
from rattle.runs.run_recorder import CallersPart, RecordedRollout, RunRecorder, checkpoint_mismatch
from rattle.samples.rollout import Played, as_tensors
from rattle.settings.experiment import ExperimentSettings
from rattle.trainer.build import build_acting_policy, build_collector, build_learner, warm_up
from rattle.trainer.errors import TrainerError

Result = TypeVar("Result")

#: Losses of worlds in a row, without a rollout between them, that a run puts up with.
MOST_LOSSES = 10


class TrainingRun:
    """One run of an experiment in this process: collect, learn, write down, until a limit or a wish to stop."""

    def __init__(
        self, settings: ExperimentSettings, directory: RunDirectory, run_id: str, collector: Collector | None = None
    ) -> None:
        """`collector` plays its agents where other policies play others in the same worlds."""
        self.settings = settings
        self.collector = collector or build_collector(settings)
        environment = self.collector.batches[0].spec
        slots = self.collector.num_worlds * environment.agents_per_world
        self.learner = build_learner(settings, policy_spec(settings, environment))
        self.recorder = RunRecorder(settings, directory, run_id, environment, slots, self.learner)
        self.policy = build_acting_policy(settings, self.learner)
        self.collector.remember(self.learner.spec.memory_size)
        self.is_between = True  # two updates: what the worlds and the tables hold belongs together

    def start(self) -> None:
        """Begin from nothing."""
        self.recorder.start()
        self.policy.load(self.learner.parameters())
        self.recorder.checkpoint("running", self.copy_worlds)

    def restore_policy(self, checkpoint: Checkpoint) -> None:
        """Continue with what was learnt, and written down."""
        self.recorder.restore(checkpoint)
        self.policy.load(self.learner.parameters())

    def restore_worlds(self, checkpoint: Checkpoint) -> EnvError | None:
        """Restore all worlds, and return why where new episodes have to begin.

        Raises TrainerError where they are split otherwise than when they were stored, and cannot be put together.
        """
        stored = _stored_parts(checkpoint, "worlds")
        lost: EnvError | None = None
        if checkpoint.numbers.get("worlds_failed"):
            lost = EnvError("the run failed in the middle of an update: new episodes begin")
        elif not stored:
            lost = EnvError("the run was made by services, which store no worlds: new episodes begin")
        states = self._in_parts(stored) if lost is None else []
        for number, worlds in enumerate(self.collector.batches if lost is None else ()):
            try:
                worlds.restore(states[number])
            except WorldsLost as loss:
                lost = loss
            except CannotReplay as loss:
                lost = loss
                break
        return lost

    def restore_rest(self, checkpoint: Checkpoint, lost: EnvError | None) -> None:
        """Restore what slots remember, unless the worlds were lost, and count on."""
        if lost is not None:
            self.begin_anew(lost)
        else:
            self._restore_memory(checkpoint)
            if self.collector.open_moves is not None and (stored := checkpoint.part("open-moves")):
                self.collector.open_moves.restore(stored)
        numbers = checkpoint.numbers
        self.collector.ticks = numbers["ticks"] if "ticks" in numbers else numbers["first_tick"]

    def _in_parts(self, stored: list[dict[str, NDArray[Any]]]) -> list[dict[str, NDArray[Any]]]:
        """Return the stored states of all worlds, one for each batch of now."""
        batches = self.collector.batches
        if len(stored) == len(batches):
            return stored
        if any(set(state) != STATE for state in stored):
            raise TrainerError(
                f"the worlds were stored in {len(stored)} parts, and train.actors={self.settings.train.actors} makes "
                f"{len(batches)} of them: put train.actors back in config.yaml"
            )
        return split_state(
            join_states(stored), [worlds.num_worlds for worlds in batches], batches[0].spec.agents_per_world
        )

    def _restore_memory(self, checkpoint: Checkpoint) -> None:
        """Have the slots remember what they did, in whatever parts they were."""
        if self.collector.memory_size:
            parts = _stored_parts(checkpoint, "memory")
            memory, first = np.concatenate([part["state"] for part in parts]), 0
            for group in self.collector.groups:
                assert group.memory is not None  # noqa: S101 - all groups have one, or none
                group.memory[:] = memory[first : first + len(group.memory)]
                first += len(group.memory)

    def copy_worlds(self) -> CallersPart:
        """Return copies of what decides, in addition to the recorder, how the run continues."""
        worlds = _despite_loss([self], lambda: [batch.state() for batch in self.collector.batches])
        arrays = {f"worlds-{number}": state for number, state in enumerate(worlds)}
        for number, group in enumerate(self.collector.groups):
            if group.memory is not None:
                arrays[f"memory-{number}"] = {"state": group.memory.copy()}
        if self.collector.open_moves is not None:
            arrays["open-moves"] = self.collector.open_moves.state()
        return arrays, {"ticks": self.collector.ticks}

    def _copy_no_worlds(self) -> CallersPart:
        return {}, {"ticks": self.collector.ticks, "worlds_failed": True}

    def fail(self, error: Exception) -> None:
        """Write down that the run has ended in an error; where code of users failed, what was learnt is kept too.

        What the learner, the tables and the counters hold is then that of the last whole update.
        """
        if isinstance(error, EnvError | ExtensionError):
            with suppress(ExtensionError):  # a hook that cannot be stored
                self.recorder.checkpoint("failed", self.copy_worlds if self.is_between else self._copy_no_worlds)
        self.recorder.fail(error, quiet=True)

    def close(self) -> None:
        """Free worlds, threads and files."""
        self.collector.close()
        with closing(self.learner):
            self.recorder.close()

    def learn(self, rollout: Played, version: int) -> tuple[UpdateMetrics, RecordedRollout]:
        """Learn from a rollout that a version of the policy has played."""
        metrics = self.learner.update(as_tensors(rollout))
        self.policy.load(self.learner.parameters())
        return metrics, RecordedRollout(rollout, version)

    def begin_anew(self, loss: EnvError) -> None:
        """Start the next episodes everywhere: rollouts and episodes join nothing from before a loss."""
        self.recorder.tables.log(of_runs.WorldsLost(error=str(loss)))
        self.collector.restart()
        self.recorder.forget(slice(0, None))

    def progress(self, speed: float, clock: RunClock) -> Progress:
        """Return where the run stands."""
        env_steps = self.recorder.counters.env_steps
        fraction, left = clock.fraction(env_steps, speed)
        tracker = self.recorder.tracker
        return Progress(
            env_steps=env_steps,
            seconds=self.recorder.counters.seconds,
            env_steps_per_second=speed,
            updates=self.learner.version,
            episodes=tracker.ended,
            mean_return=tracker.mean_return,
            mean_episode_length=tracker.mean_length,
            evaluation_return=self.recorder.evaluation_return,
            metrics=self.recorder.metrics,
            fraction=fraction,
            seconds_left=left,
        )


def restore_together(runs: Sequence[TrainingRun], checkpoints: Sequence[Checkpoint]) -> None:
    """Continue exactly where checkpoints of the same update were taken, and drop what the tables got after it.

    Raises a RattleError, before any file is touched, when a checkpoint does not fit the settings.
    """
    stored = list(zip(runs, checkpoints, strict=True))
    try:
        for run, checkpoint in stored:
            run.restore_policy(checkpoint)
        losses = [run.restore_worlds(checkpoint) for run, checkpoint in stored]
        lost = next((loss for loss in losses if loss is not None), None)
        if lost is not None and not isinstance(lost, WorldsLost):  # a seed of their own: no game is played twice
            seed = derive_seed(runs[0].settings.seed, "worlds", runs[0].learner.version)
            for worlds in (batch for run in runs for batch in run.collector.batches):
                worlds.reset(seed)
        for run, checkpoint in stored:
            run.restore_rest(checkpoint, lost)
    except (KeyError, ValueError, TypeError) as error:
        raise checkpoint_mismatch(error) from None
    for run, checkpoint in stored:
        run.recorder.cut_back(checkpoint)


def train_together(
    runs: Sequence[TrainingRun], limits: RunLimits, display: Display, wants_stop: Callable[[], bool]
) -> list[Summary]:
    """Train until a limit is reached or `wants_stop` says so, then checkpoint and return the result of each run.

    Runs of several policies share their worlds, and all of them learn from each rollout. They end when all have a
    reason to. Raises LearningError for numbers that are not finite and AnalyticsError for a disk that takes no more;
    the last good checkpoint then stays the newest.
    """
    first = runs[0]
    for run in runs:
        warm_up(run.settings, run.policy, run.collector.batches[0])
        run.recorder.evaluations.wants_stop = wants_stop
        run.recorder.begin()
    clock = RunClock(first.recorder.counters.seconds, limits, first.settings.train.checkpoint_seconds)
    if reason := _why_over(runs, clock):
        first.recorder.tables.log(of_runs.NothingLeft(reason=reason))
    while not _why_over(runs, clock) and not wants_stop():
        display.update(_progress(runs, _update(runs, clock), clock))
        if _are_idle(runs) and first.recorder.checkpoint_due(clock):
            for run in runs:
                run.recorder.checkpoint("running", run.copy_worlds)
        elif clock.second_passed():
            for run in runs:
                run.recorder.tables.show()
    reason = _why_over(runs, clock)
    for run in runs:
        run.recorder.counters.seconds = clock.total()
        run.recorder.stored()  # of its checkpoints none is dropped that another run still needs
    return [run.recorder.end("finished" if reason else "interrupted", reason, run.copy_worlds) for run in runs]


def _why_over(runs: Sequence[TrainingRun], clock: RunClock) -> str | None:
    reasons = [run.recorder.why_good_enough for run in runs]
    good_enough = reasons[0] if all(reasons) else None
    return good_enough or clock.limit_reached(runs[0].recorder.counters.env_steps)


def _are_idle(runs: Sequence[TrainingRun]) -> bool:
    """Whether all have stored their last checkpoint: those of one update belong together."""
    return all(run.recorder.is_idle for run in runs)


def _update(runs: Sequence[TrainingRun], clock: RunClock) -> float:
    """Make an update of each run, from a rollout of its own agents, and write it down; return the speed in steps/s."""
    began = time.perf_counter()
    for run in runs:
        run.is_between = False
    version = runs[0].learner.version
    complete = runs[0].settings.algorithm.complete_episodes
    records = recorded_episodes(runs[0].settings, version, complete_episodes=complete)
    collectors, policies = [run.collector for run in runs], [run.policy for run in runs]
    rollouts = _despite_loss(runs, lambda: collect_together(collectors, policies, version, records))
    learnt = [run.learn(rollout, version) for run, rollout in zip(runs, rollouts, strict=True)]
    seconds, took = clock.total(), time.perf_counter() - began
    for run in runs:
        run.recorder.counters.seconds = seconds
        run.is_between = True
    for run, (metrics, played) in zip(runs, learnt, strict=True):
        run.recorder.write_down(metrics, [played], played.env_steps / took)
    return clock.speed(learnt[0][1].env_steps, took)


def _progress(runs: Sequence[TrainingRun], speed: float, clock: RunClock) -> Progress:
    """Return where runs stand; of several it is the first, and the mean returns of all."""
    progress = runs[0].progress(speed, clock)
    if len(runs) == 1:
        return progress
    returns = zip(runs[0].settings.policy_names, (run.recorder.tracker.mean_return for run in runs), strict=True)
    return replace(progress, metrics={f"{name} return": value for name, value in returns if value is not None})


def _despite_loss(runs: Sequence[TrainingRun], use_worlds: Callable[[], Result]) -> Result:
    """Return what needs the worlds; as often as they are lost meanwhile, begin again and try again."""
    for left in reversed(range(MOST_LOSSES)):
        try:
            return use_worlds()
        except WorldsLost as loss:
            if not left:
                raise EnvironmentFailed(
                    f"the worlds were lost {MOST_LOSSES} times in a row, the last: {loss}"
                ) from None
            for run in runs:
                run.begin_anew(loss)
    raise AssertionError


def _stored_parts(checkpoint: Checkpoint, name: str) -> list[dict[str, NDArray[Any]]]:
    """Return the parts NAME-0, NAME-1 and so on of a checkpoint."""
    found = {key.partition("/")[0] for key in checkpoint.tensors if key.startswith(f"{name}-")}
    return [checkpoint.part(f"{name}-{number}") for number in range(len(found))]
