"""One policy's run: what it learns from rollouts, and what is stored of it. Used by one thread at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.run_directory import RunDirectory
from rattle.envs.vector import EnvironmentSpec
from rattle.events import Event, of_runs
from rattle.extensions import ExtensionError
from rattle.learning.errors import LearningError
from rattle.learning.learner import UpdateMetrics
from rattle.rollouts.worlds import policy_spec
from rattle.runs.checkpoint import Checkpoint
from rattle.runs.progress import Status
from rattle.runs.run_clock import RunClock, RunLimits
from rattle.runs.run_recorder import CallersPart, MissingTicks, RecordedRollout, RunRecorder, checkpoint_mismatch
from rattle.runs.run_tables import read_run_row
from rattle.samples.rollout import Played, as_tensors, join
from rattle.services.training.actors import LifeName
from rattle.services.training.rollout_batcher import Origin, ReceivedRollout, RolloutBatcher
from rattle.services.training.rollout_messages import Contribution, RunRolloutSpec
from rattle.settings.experiment import ExperimentSettings
from rattle.trainer.build import build_learner


@dataclass(frozen=True)
class PublishedPolicy:
    """A policy as it goes out."""

    version: int
    file: bytes
    first_tick: int  # ticks that every world has played before a rollout of this version begins
    finished: bool
    rollout_ticks: int  # of a rollout; where episodes are complete, the most
    complete_episodes: bool  # a rollout holds one complete episode of every slot


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run after an update."""

    env_steps: int
    episodes: int
    env_steps_per_second: float = 0.0
    mean_return: float | None = None
    mean_episode_length: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)  # what the algorithm says of the update, by name
    policy_age: float = 0.0
    max_policy_age: int = 0


@dataclass(frozen=True)
class Update:
    """One step of learning: what was learnt from, and the policy that it made."""

    parts: Sequence[ReceivedRollout[Contribution]]
    played: Sequence[RecordedRollout]
    metrics: UpdateMetrics
    policy: PublishedPolicy

    @property
    def env_steps(self) -> int:
        """Return the ticks of all worlds that were learnt from."""
        return sum(one.env_steps for one in self.played)

    @property
    def ages(self) -> list[int]:
        """Return how many updates lie between playing and learning, by part."""
        return [self.metrics.policy_version - 1 - one.policy_version for one in self.played]


class PolicyRun:
    """The learner, tables and checkpoints of one policy, for rollouts that come from elsewhere."""

    def __init__(
        self, settings: ExperimentSettings, directory: RunDirectory, run_id: str, environment: EnvironmentSpec
    ) -> None:
        self.settings = settings
        spec = policy_spec(settings, environment)
        self.form = RunRolloutSpec.of(settings, environment, spec)
        alike = replace(environment, agents_per_world=self.form.agents)
        slots = self.form.worlds * self.form.agents
        self.learner = build_learner(settings, spec)
        self.recorder = RunRecorder(settings, directory, run_id, alike, slots, self.learner)
        self.recorder.evaluations.waits_for_ever = True
        self.first_tick = 0
        self._limits = RunLimits(settings.train.steps, settings.train.seconds)
        self._clock: RunClock | None = None
        self._timed = 0.0  # seconds of this command when the last update was written down
        self.standing = self._stand()

    def start(self, intake: Mapping[str, Any]) -> None:
        """Begin from nothing, with the state of an intake that knows nothing."""
        self.recorder.start()
        self.recorder.checkpoint("running", lambda: self._copy(intake))
        self.recorder.wait_stored()

    def restore(self, checkpoint: Checkpoint, intake: RolloutBatcher[Contribution]) -> None:
        """Continue, with an intake that knows nothing yet, where a checkpoint was taken.

        Raises a RattleError, before any file is touched, when the checkpoint does not fit the settings.
        """
        try:
            self.recorder.restore(checkpoint)
            numbers = checkpoint.numbers  # of a service or, with ticks and no intake, of one process
            self.first_tick = int(numbers["first_tick"] if "first_tick" in numbers else numbers["ticks"])
            intake.restore(numbers.get("intake", {"lives": (), "followed": ()}), self.learner.version)
        except (KeyError, ValueError, TypeError) as error:
            raise checkpoint_mismatch(error) from None
        self.recorder.cut_back(checkpoint)
        self.standing = self._stand()

    @property
    def has_ended(self) -> bool:
        """Whether it was written down before that the run has finished."""
        return bool(read_run_row(self.recorder.directory)["status"] == "finished")

    def tell(self, event: Event) -> None:
        """Tell an event of this run."""
        self.recorder.tables.log(event)

    def begin(self) -> RunClock:
        """Have the clock run from now on, if it does not yet: somebody plays."""
        if self._clock is None:
            every = self.settings.train.checkpoint_seconds
            self._clock = RunClock(self.recorder.counters.seconds, self._limits, every)
        return self._clock

    @property
    def seconds(self) -> float:
        """Return the seconds that the run has trained, over all restarts."""
        return self._clock.total() if self._clock is not None else self.recorder.counters.seconds

    @property
    def seconds_left(self) -> float | None:
        """Return the seconds until the limit ends the run, None where there is none or nobody has played yet."""
        if self._clock is None or self._limits.seconds is None:
            return None
        return max(0.0, self._limits.seconds - self._clock.here())

    def why_over(self, more_steps: int = 0) -> str | None:
        """Return which limit is reached after `more_steps` that are not counted yet, or that the policy is good enough.

        None while there is more to learn.
        """
        seconds = 0.0 if self._clock is None else self._clock.here()
        steps = self.recorder.counters.env_steps + more_steps
        return self.recorder.why_good_enough or self._limits.reached(steps, seconds)

    def checkpoint_due(self) -> bool:
        """Whether it is time for a checkpoint; raises AnalyticsError when the last one could not be stored."""
        return self._clock is not None and self.recorder.checkpoint_due(self._clock)

    def policy(self) -> PublishedPolicy:
        """Return the policy as it is."""
        return self._published(self.learner.version, finished=self.why_over() is not None)

    def _published(self, version: int, *, finished: bool) -> PublishedPolicy:
        algorithm, file = self.settings.algorithm, self.recorder.policy_file()
        ticks, complete = algorithm.rollout_ticks, algorithm.complete_episodes
        return PublishedPolicy(version, file, self.first_tick, finished, ticks, complete)

    def learn(self, parts: Sequence[ReceivedRollout[Contribution]]) -> Update:
        """Improve the policy by one step on some parts; `write_down` must follow.

        Raises LearningError, with everything as it was, when they cannot be learnt from.
        """
        version = self.learner.version
        rollout = join([part.content.rollout for part in parts])
        metrics = self.learner.update(as_tensors(rollout))
        if self.settings.training.mode == "on_policy" and not self.form.one_world:
            played = [RecordedRollout(rollout, version, gaps=tuple(gap for part in parts for gap in self._gaps(part)))]
        else:
            played = [self._played(part) for part in parts]
        self.first_tick += rollout.ticks
        over = self.why_over(sum(one.env_steps for one in played)) is not None
        made = self._published(metrics.policy_version, finished=over)
        return Update(parts, played, metrics, made)

    def find_unlearnable(self, parts: Sequence[ReceivedRollout[Contribution]]) -> set[LifeName]:
        """Return whose parts cannot be learnt from by themselves: of some that could not be learnt from together.

        All of them where each actor's parts can. Nothing is learnt.
        """
        whose: dict[LifeName, list[Played]] = {}
        for part in parts:
            whose.setdefault((part.origin.actor, part.origin.life), []).append(part.content.rollout)
        if len(whose) == 1:
            return set(whose)
        state, found = self.learner.state(), set[LifeName]()
        for life, rollouts in whose.items():
            try:
                self.learner.update(as_tensors(join(rollouts)))
            except (LearningError, ExtensionError):
                found.add(life)
            else:
                self.learner.restore(state)
        return found or set(whose)

    def write_down(self, update: Update, intake: Mapping[str, Any] | None) -> None:
        """Put an update into the tables; with the state of the intake, store a checkpoint too."""
        clock = self.begin()
        took = clock.here() - self._timed
        self._timed = clock.here()
        self.recorder.counters.seconds = clock.total()
        self.recorder.write_down(update.metrics, update.played, update.env_steps / took)
        self.standing = self._stand(update, clock.speed(update.env_steps, took))
        if intake is not None:
            self.recorder.checkpoint("running", lambda: self._copy(intake))
        elif clock.second_passed():
            self.recorder.tables.show()

    def end(self, status: Status, intake: Mapping[str, Any]) -> None:
        """Store the last checkpoint, and wait for it."""
        self.recorder.counters.seconds = self.seconds
        reason = self.why_over() if status == "finished" else None
        stopped = None if reason else of_runs.TrainingStopped  # who told it to stop knows what happened to the run
        self.recorder.end(status, reason, lambda: self._copy(intake), stopped)

    def fail(self, error: Exception, text: str, intake: Mapping[str, Any]) -> None:
        """Write down that the run has ended in an error, and say so in a text, as far as the disk takes it.

        Where code of users failed, what was learnt up to the last whole update is kept.
        """
        if isinstance(error, ExtensionError):
            with suppress(AnalyticsError, ExtensionError):  # a hook that cannot be stored
                self.recorder.checkpoint("failed", lambda: self._copy(intake))
        with suppress(AnalyticsError):
            self.recorder.fail(error, text, quiet=False)

    def _copy(self, intake: Mapping[str, Any]) -> CallersPart:
        """Return what decides, in addition to the recorder, how the run continues."""
        return {}, {"first_tick": self.first_tick, "intake": dict(intake)}

    def close(self) -> None:
        """Stop the learner's threads and close the files, as far as the disk takes what is left to write."""
        with suppress(AnalyticsError), closing(self.learner):
            self.recorder.close()

    def _played(self, part: ReceivedRollout[Contribution]) -> RecordedRollout:
        first_slot = self._slots(part.origin).start
        return RecordedRollout(part.content.rollout, part.origin.policy_version, first_slot, tuple(self._gaps(part)))

    def _gaps(self, part: ReceivedRollout[Contribution]) -> list[MissingTicks]:
        """Return what is missing before a part."""
        if part.follows:
            return []
        goes_on = part.origin.continues and not self.settings.algorithm.complete_episodes
        return [MissingTicks(self._slots(part.origin), goes_on)]

    def _slots(self, origin: Origin) -> slice:
        agents = self.form.agents
        return slice(origin.first_world * agents, (origin.first_world + origin.worlds) * agents)

    def _stand(self, update: Update | None = None, speed: float = 0.0) -> RunProgress:
        tracker = self.recorder.tracker
        standing = RunProgress(
            env_steps=self.recorder.counters.env_steps,
            episodes=tracker.ended,
            env_steps_per_second=speed,
            mean_return=tracker.mean_return,
            mean_episode_length=tracker.mean_length,
        )
        if update is None:
            return standing
        return replace(
            standing,
            metrics=self.recorder.metrics,
            policy_age=sum(update.ages) / len(update.ages),
            max_policy_age=max(update.ages),
        )
