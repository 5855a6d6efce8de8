"""The in-process training loop."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.writer import write_atomically
from rattle.envs.errors import WorldsLost
from rattle.learning.learner import UpdateMetrics
from rattle.policies.file import dump_policy
from rattle.trainer.build import (
    as_policy,
    build_acting_policy,
    build_collector,
    build_learner,
    policy_spec,
    warm_up,
)
from rattle.trainer.checkpoint import Checkpoint, join_parts, save_checkpoint
from rattle.trainer.episodes import EpisodeTracker, episode_rows
from rattle.trainer.errors import TrainerError
from rattle.trainer.progress import Display, Progress, Status, Summary
from rattle.trainer.recorder import Recorder
from rattle.trainer.run_tables import NOTHING, RunTables, now, run_row, write_run_row
from rattle.trainer.settings import ExperimentSettings

Result = TypeVar("Result")

#: Losses of worlds in a row, without a rollout between them, that a run puts up with.
MOST_LOSSES = 10


@dataclass
class Limits:
    """When a run stops by itself."""

    steps: int | None  # environment steps, over all resumes
    seconds: float | None  # of this command


@dataclass
class Counters:
    """What a run has done so far."""

    env_steps: int = 0
    seconds: float = 0.0
    started: str = field(default_factory=now)


class TrainingRun:
    """One run of an experiment in this process: collect, learn, write down, until a limit or a wish to stop."""

    def __init__(self, settings: ExperimentSettings, directory: RunDirectory, run_id: str) -> None:
        self.settings = settings
        self.directory = directory
        self.run_id = run_id
        self.counters = Counters()
        self.collector = build_collector(settings)
        self.environment = self.collector.batches[0].spec
        self.learner = build_learner(settings, policy_spec(settings, self.environment))
        self.policy = build_acting_policy(settings, self.learner)
        slots = self.collector.num_worlds * self.environment.agents_per_world
        self.tracker = EpisodeTracker(slots, complete_episodes=settings.algorithm.complete_episodes)
        self.tables = RunTables(directory, run_id, settings.name, tensorboard=settings.log.tensorboard)
        self.recorder = Recorder(
            self.tables.steps,
            run_id,
            settings.record.every_episodes,
            self.environment.agents_per_world,
            complete_episodes=settings.algorithm.complete_episodes,
        )

    def start(self) -> None:
        """Begin from nothing: drop what an attempt that never reached its first checkpoint may have left."""
        self.tables.cut_back(NOTHING)
        self.tables.log("run_started", seed=self.settings.seed)
        self.checkpoint("running")

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on exactly where a checkpoint was taken, and drop what the tables got after it.

        Raises a RattleError, before any file is touched, when the checkpoint does not fit the settings.
        """
        try:
            self._restore(checkpoint)
        except (KeyError, ValueError, TypeError) as error:
            raise TrainerError(
                f"the checkpoint lacks what this version needs ({error}): it cannot be resumed"
            ) from None
        self.tables.cut_back(checkpoint.numbers["tables"])
        self.tables.log("run_resumed", update=self.learner.version)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.learner.restore(checkpoint.part("learner"))
        self.policy.load(self.learner.parameters())
        lost: WorldsLost | None = None
        for number, worlds in enumerate(self.collector.batches):
            try:
                worlds.restore(checkpoint.part(f"worlds-{number}"))
            except WorldsLost as loss:
                lost = loss
        self.tracker.restore(checkpoint.part("tracker"))
        self.recorder.restore(checkpoint.part("recorder"))
        if lost is not None:
            self._begin_anew(lost)
        numbers = checkpoint.numbers
        self.collector.ticks = numbers["ticks"]
        self.counters = Counters(numbers["env_steps"], numbers["seconds"], numbers["started"])

    def train(self, limits: Limits, display: Display, wants_stop: Callable[[], bool]) -> Summary:
        """Train until a limit is reached or `wants_stop` says so, then checkpoint and return what came of it.

        Raises LearningError for numbers that are not finite and AnalyticsError for a disk that takes no more; the
        last good checkpoint then stays the newest.
        """
        warm_up(self.settings, self.policy)
        clock = _Clock(self.counters.seconds, limits, self.settings.train.checkpoint_seconds)
        while not self._done(limits, clock) and not wants_stop():
            began = time.perf_counter()
            metrics = self._update()
            self.counters.seconds = clock.total()
            speed = clock.speed(self._last_steps, time.perf_counter() - began)
            self._write_down(metrics, self._last_steps / (time.perf_counter() - began))
            display.update(self._progress(metrics, speed, limits, clock))
            if clock.checkpoint_due():
                self.checkpoint("running")
            elif clock.second_passed():
                self.tables.show()
        self.counters.seconds = clock.total()
        status: Status = "finished" if self._done(limits, clock) else "interrupted"
        self.tables.log(f"run_{status}", update=self.learner.version)
        return self.checkpoint(status)

    def checkpoint(self, status: Status) -> Summary:
        """Store everything that decides how the run goes on."""
        worlds = self._despite_loss(lambda: [batch.state() for batch in self.collector.batches])
        reach = self.tables.flush()
        parts = {
            "learner": self.learner.state(),
            "tracker": self.tracker.state(),
            "recorder": self.recorder.state(),
            **{f"worlds-{number}": state for number, state in enumerate(worlds)},
        }
        numbers = {
            "ticks": self.collector.ticks,
            "env_steps": self.counters.env_steps,
            "seconds": self.counters.seconds,
            "started": self.counters.started,
            "tables": reach,
        }
        checkpoint = Checkpoint(join_parts(parts), numbers)
        save_checkpoint(self.directory, checkpoint, self.learner.version, self.settings.train.keep_checkpoints)
        data = dump_policy(as_policy(self.learner, self.environment))
        write_atomically(self.directory.policy, data)
        summary = self._summary(status, hashlib.sha256(data).hexdigest())
        write_run_row(self.directory, run_row(self.settings, summary, self.counters.started))
        return summary

    def fail(self, error: Exception) -> None:
        """Write down that the run has ended in an error, keeping the last checkpoint and policy as they are."""
        self.tables.log("run_failed", level="ERROR", error=str(error))
        digest = (
            hashlib.sha256(self.directory.policy.read_bytes()).hexdigest() if self.directory.policy.exists() else ""
        )
        write_run_row(self.directory, run_row(self.settings, self._summary("failed", digest), self.counters.started))

    def close(self) -> None:
        """Free worlds, threads and files."""
        self.collector.close()
        self.learner.close()
        self.tables.close()

    def _update(self) -> UpdateMetrics:
        """Collect one rollout and learn from it."""
        version = self.learner.version
        rollout = self._despite_loss(lambda: self.collector.collect(self.policy, version, self.recorder.records))
        self._ticks = rollout.action.shape[0]
        self._last_steps = self._ticks * self.collector.num_worlds
        metrics = self.learner.update(rollout)
        self.policy.load(self.learner.parameters())
        return metrics

    def _despite_loss(self, use_worlds: Callable[[], Result]) -> Result:
        """Return what needs the worlds; as often as they are lost meanwhile, begin anew and try again."""
        for _ in range(MOST_LOSSES):
            try:
                return use_worlds()
            except WorldsLost as loss:
                self._begin_anew(loss)
        raise TrainerError(f"the worlds were lost {MOST_LOSSES} times in a row: look at the environment server")

    def _begin_anew(self, loss: WorldsLost) -> None:
        """Start the next episodes everywhere: rollouts and episodes join nothing from before a loss."""
        self.tables.log("worlds_lost", level="WARNING", error=str(loss))
        self.collector.restart()
        self.tracker.forget()
        self.recorder.forget()

    def _write_down(self, metrics: UpdateMetrics, speed: float) -> None:
        """Put the episodes that ended, the recorded one and the update into the tables."""
        version = metrics.policy_version - 1
        first_id = self.tracker.ended
        finished = self.tracker.follow(self.collector.buffer, self._ticks)
        common = {**self.tables.common(), "env_steps": self.counters.env_steps, "policy_version": version}
        self.tables.episodes(episode_rows(finished, self.environment.agents_per_world, first_id, common))
        self.recorder.follow(self.collector.buffer, self._ticks, version)
        self.counters.env_steps += self._last_steps
        self.tables.update(
            {
                "policy_version": metrics.policy_version,
                "env_steps": self.counters.env_steps,
                "seconds": self.counters.seconds,
                "env_steps_per_second": speed,
                "episodes": self.tracker.ended,
                "mean_return": self.tracker.mean_return,
                "mean_episode_length": self.tracker.mean_length,
                "policy_loss": metrics.policy_loss,
                "value_loss": metrics.value_loss,
                "entropy": metrics.entropy,
                "gradient_norm": metrics.gradient_norm,
                "learning_rate": self.settings.algorithm.learning_rate,
            }
        )

    def _done(self, limits: Limits, clock: _Clock) -> bool:
        return (limits.steps is not None and self.counters.env_steps >= limits.steps) or clock.out_of_time()

    def _progress(self, metrics: UpdateMetrics, speed: float, limits: Limits, clock: _Clock) -> Progress:
        fraction, left = clock.fraction(self.counters.env_steps, speed)
        return Progress(
            env_steps=self.counters.env_steps,
            seconds=self.counters.seconds,
            env_steps_per_second=speed,
            updates=self.learner.version,
            episodes=self.tracker.ended,
            mean_return=self.tracker.mean_return,
            mean_episode_length=self.tracker.mean_length,
            entropy=metrics.entropy,
            policy_loss=metrics.policy_loss,
            value_loss=metrics.value_loss,
            fraction=fraction,
            seconds_left=left,
        )

    def _summary(self, status: Status, policy_sha256: str) -> Summary:
        seconds = self.counters.seconds
        return Summary(
            run_id=self.run_id,
            run_dir=str(self.directory.path),
            status=status,
            env_steps=self.counters.env_steps,
            seconds=seconds,
            env_steps_per_second=self.counters.env_steps / seconds if seconds else 0.0,
            updates=self.learner.version,
            episodes=self.tracker.ended,
            mean_return=self.tracker.mean_return,
            mean_episode_length=self.tracker.mean_length,
            policy_version=self.learner.version,
            policy_sha256=policy_sha256,
        )


class _Clock:
    """Times a command, and its checkpoints, from when learning starts."""

    def __init__(self, seconds_before: float, limits: Limits, checkpoint_seconds: float) -> None:
        self._before = seconds_before
        self._limits = limits
        self._every = checkpoint_seconds
        self._began = self._checkpointed = self._shown = time.perf_counter()
        self._speed = 0.0

    def here(self) -> float:
        """Return the seconds that this command has trained."""
        return time.perf_counter() - self._began

    def total(self) -> float:
        """Return the seconds that the run has trained, over all resumes."""
        return self._before + self.here()

    def out_of_time(self) -> bool:
        """Whether this command has had its seconds."""
        return self._limits.seconds is not None and self.here() >= self._limits.seconds

    def checkpoint_due(self) -> bool:
        """Whether the last checkpoint was long enough ago; counts from now on if so."""
        if time.perf_counter() - self._checkpointed < self._every:
            return False
        self._checkpointed = time.perf_counter()
        return True

    def second_passed(self) -> bool:
        """Whether the last call that said so was a second ago."""
        if time.perf_counter() - self._shown < 1.0:
            return False
        self._shown = time.perf_counter()
        return True

    def speed(self, steps: int, seconds: float) -> float:
        """Return steps a second, smoothed over about the last twenty updates."""
        now_speed = steps / seconds
        self._speed = now_speed if not self._speed else 0.95 * self._speed + 0.05 * now_speed
        return self._speed

    def fraction(self, env_steps: int, speed: float) -> tuple[float | None, float | None]:
        """Return how much is done, from 0 to 1, and the seconds left, by the limit that comes first."""
        ends: list[tuple[float, float]] = []
        if self._limits.steps is not None:
            left = max(0.0, (self._limits.steps - env_steps) / speed)
            ends.append((left, min(1.0, env_steps / self._limits.steps)))
        if self._limits.seconds is not None:
            left = max(0.0, self._limits.seconds - self.here())
            ends.append((left, min(1.0, self.here() / self._limits.seconds)))
        if not ends:
            return None, None
        soonest, fraction = min(ends)
        return fraction, soonest
