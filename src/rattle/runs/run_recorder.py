"""What is written down of a run: its counters, tables, policies and checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.analytics.directory_sink import NOTHING
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.schema import UPDATES
from rattle.analytics.writer import write_atomically
from rattle.envs.vector import EnvironmentSpec
from rattle.events import of_runs
from rattle.learning.learner import Learner, UpdateMetrics
from rattle.policies.file import StoredPolicy, dump_policy
from rattle.runs.best_policy import BestPolicy
from rattle.runs.checkpoint import Checkpoint, checkpoint_file, join_parts
from rattle.runs.checkpoint_store import CheckpointStore, Snapshot
from rattle.runs.episode_numbers import EpisodeNumbers
from rattle.runs.episode_recorder import EpisodeRecorder
from rattle.runs.episodes import EpisodeTracker, FinishedEpisodes, episode_rows
from rattle.runs.errors import RunError
from rattle.runs.evaluations import Evaluated, Evaluations, Weights
from rattle.runs.first_policy import read_first_policy
from rattle.runs.hooks import Hooks
from rattle.runs.origin import known_origin
from rattle.runs.progress import Status, Summary
from rattle.runs.run_clock import RunClock
from rattle.runs.run_tables import RunTables, now, read_run_row, run_row, write_run_row
from rattle.samples.rollout import Played
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.hook import RunInfo
from rattle.telemetry.sinks import UPDATE

Arrays = Mapping[str, Mapping[str, NDArray[Any]]]  # of a checkpoint, by part and name
CallersPart = tuple[Arrays, Mapping[str, Any]]  # of a checkpoint: arrays and plain numbers

#: Training that a resume may drop from the tables without a copy, in seconds.
MOST_SECONDS_CUT = 60.0
#: What holds for the games of a batch whose worlds share what they draw.
_SHARED_GAMES = "its worlds share what they draw, so that games depend on env.worlds and train.actors"


def as_policy(
    learner: Learner, environment: EnvironmentSpec, earlier: tuple[int, Mapping[str, NDArray[np.float32]]] | None = None
) -> StoredPolicy:
    """Return the learner's policy as it goes into a policy file, or an `earlier` version of it with its weights."""
    version, weights = earlier or (learner.version, learner.parameters())
    return StoredPolicy(learner.spec, weights, version, environment.id, environment.settings)


@dataclass
class Counters:
    """What a run has done so far."""

    env_steps: int = 0
    seconds: float = 0.0  # of training, over all resumes
    started: str = field(default_factory=now)
    origin: Mapping[str, Any] = field(default_factory=dict)  # columns of its row that say where it began


@dataclass(frozen=True)
class MissingTicks:
    """Slots of which something is missing, or everything began again, before the first tick that was played."""

    slots: slice
    goes_on: bool  # the episodes in progress continue after it


@dataclass(frozen=True)
class RecordedRollout:
    """A rollout of some of a run's worlds, played by one version of the policy."""

    rollout: Played
    policy_version: int
    first_slot: int = 0  # the number, in the run, of the rollout's first slot
    gaps: tuple[MissingTicks, ...] = ()

    @property
    def env_steps(self) -> int:
        """Return the ticks of all its worlds."""
        return int(self.rollout.world_episode.size)


class RunRecorder:
    """Writes down what a learner learns; the same for a run in one process and in many.

    `slots` counts those of the whole run. Tables and checkpoints go to `directory`, which must be this process's own.
    """

    def __init__(
        self,
        settings: ExperimentSettings,
        directory: RunDirectory,
        run_id: str,
        environment: EnvironmentSpec,
        slots: int,
        learner: Learner,
    ) -> None:
        self.settings = settings
        self.directory = directory
        self.run_id = run_id
        self.environment = environment
        self.counters = Counters(origin=known_origin(directory))
        self._learner = learner
        self._file: tuple[int, bytes] | None = None  # the newest policy file that was made, and its version
        self.evaluations = Evaluations(settings, learner.spec, environment, self._write_evaluation)
        self.evaluation_return: float | None = None  # mean return of the newest evaluation
        self.tables = RunTables(directory, run_id, settings)
        self._best = BestPolicy(self._learner.parameters())
        self._store = CheckpointStore(directory, settings, run_id, self.tables.publish_run)
        complete_episodes = settings.algorithm.complete_episodes
        agents = environment.agents_per_world
        self.tracker = EpisodeTracker(slots, complete_episodes=complete_episodes)
        self._agents = agents
        self._numbers = EpisodeNumbers(slots // agents)
        self.episode_recorder = EpisodeRecorder(
            self._record_episode, run_id, agents, complete_episodes=complete_episodes, on_cut=self._say_recording_cut
        )
        self.hooks = Hooks(settings.all_hooks)
        self.metrics: Mapping[str, float] = {}  # what the algorithm and hooks say of the last update, by name
        self._told_of: Summary | None = None  # the checkpoint that hooks were told of last

    def start(self) -> None:
        """Begin from nothing: drop what an attempt that never reached its first checkpoint may have left.

        Where the run has a first policy, the learner takes its weights; raises RunError when they do not fit.
        """
        if self.directory.first_policy.exists():
            first = read_first_policy(self.directory.first_policy, self._learner.spec)
            self._learner.begin_with(first.parameters)
            self._best = BestPolicy(self._learner.parameters())
        self.tables.cut_back({**NOTHING, UPDATE: 0})
        self.tables.publish_run(read_run_row(self.directory))
        self.tables.log(of_runs.RunStarted(seed=self.settings.seed))
        self._say_how_stepped()

    def _record_episode(self, columns: Mapping[str, Any]) -> None:
        """Append an agent's episode to the table `steps`, with its actions as worlds were handed them."""
        space, rows = self._learner.spec.action, columns["action_row"]
        if rows.size:
            rows = space.handed_over(rows.reshape(len(rows), *space.shape)).reshape(rows.shape)
        self.tables.record({**columns, "action_row": rows})

    def _say_how_stepped(self) -> None:
        """Say which lane the worlds are on where there was a choice, and what that means."""
        environment, vector = self.environment, self.settings.env.vector
        if (batch := environment.batch) is not None:
            games = "each world plays the same games in any batch" if batch.any_width else _SHARED_GAMES
            said = of_runs.SteppedAsBatch(environment=environment.id, stepped_by=batch.stepped_by, games=games)
            self.tables.log(said)
        elif vector == "auto" and self.settings.env.url is None:
            self.tables.log(of_runs.SteppedOneByOne(environment=environment.id))

    def begin(self) -> None:
        """Have the run's row say that it is in progress, and tell hooks; raises ExtensionError."""
        if read_run_row(self.directory)["status"] != "running":  # it continues, after an end or a failure
            row = run_row(self.settings, self.newest, self.counters.started, self.counters.origin)
            write_run_row(self.directory, row)
            self.tables.publish_run(row)
        if self.hooks:
            own = self.settings.model_dump(mode="json")
            run = RunInfo(self.run_id, self.directory.path, self.settings.seed, self._learner.version, own)
            self.hooks.start(run)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue where a checkpoint was taken; `cut_back` must follow when all else is restored too.

        Raises a RattleError, KeyError, TypeError or ValueError when the checkpoint does not fit the settings.
        """
        self._learner.restore(checkpoint.part("learner"))
        self.tracker.restore(checkpoint.part("tracker"))
        self.episode_recorder.restore(checkpoint.part("recorder"))
        self._numbers.restore(checkpoint.part("episode_numbers"))
        self.hooks.restore(checkpoint)
        numbers = checkpoint.numbers
        if numbers.get("best_is_evaluated", False) == self.evaluations.are_made:
            self._best.restore(checkpoint, self._learner.parameters())
        else:  # judged by other games, whose returns compare with none of those that follow
            self._best = BestPolicy(self._learner.parameters())
        self.evaluation_return = numbers.get("evaluation_return")
        origin = numbers.get("origin") or self.counters.origin
        self.counters = Counters(numbers["env_steps"], numbers["seconds"], numbers["started"], origin)
        self._store.stored = self.summary("running", hashlib.sha256(self.policy_file()).hexdigest())

    def cut_back(self, checkpoint: Checkpoint) -> None:
        """Drop what the tables got after a checkpoint: the run plays it again.

        More than `MOST_SECONDS_CUT` of training is kept next to the tables: a run loses so much only when somebody took
        newer checkpoints away.
        """
        cut = self.tables.seconds_trained() - self.counters.seconds
        kept = cut > MOST_SECONDS_CUT
        self.tables.cut_back({**checkpoint.numbers["tables"], UPDATE: checkpoint.update}, keep=kept)
        self.tables.publish_run(read_run_row(self.directory))
        self.evaluations.restore(checkpoint)
        if kept:
            self.tables.log(of_runs.RowsPutAside(seconds=round(cut, 3), update=self._learner.version))
        self.tables.log(of_runs.RunResumed(update=self._learner.version))

    def write_down(self, metrics: UpdateMetrics, played: Sequence[RecordedRollout], speed: float) -> None:
        """Put an update, and the episodes that ended in what was learnt from, into the tables.

        `speed` is in environment steps a second. The counter of seconds must be up to date. Raises ExtensionError for
        what a hook raises, when all is written down.
        """
        rows: list[Mapping[str, Any]] = []
        self.tables.newest_update = metrics.policy_version
        self.tracker.remember([self._write_episodes(part, rows) for part in played])
        if not self.evaluations.are_made:
            self._best.remember(metrics.policy_version - 1, self.tracker, self._learner.parameters())
        steps_before = self.counters.env_steps
        self.counters.env_steps += sum(part.env_steps for part in played)
        ages = [metrics.policy_version - 1 - part.policy_version for part in played]
        self.metrics = metrics.values
        more = {name: value for name, value in metrics.values.items() if name not in UPDATES}
        row = {
            **self.tables.common(),
            "policy_version": metrics.policy_version,
            "env_steps": self.counters.env_steps,
            "seconds": self.counters.seconds,
            "env_steps_per_second": speed,
            "episodes": self.tracker.ended,
            "mean_return": self.tracker.mean_return,
            "mean_episode_length": self.tracker.mean_length,
            **{name: value for name, value in metrics.values.items() if name in UPDATES},
            "policy_age": sum(ages) / len(ages),
            "max_policy_age": max(ages),
            "metrics": more,
        }
        try:
            if self.hooks:
                self._tell_of_checkpoint()
                reported = self.hooks.update(row, rows)
                more |= reported
                self.metrics = {**self.metrics, **reported}
        finally:
            self.tables.append("updates", [row])
            made = Evaluated(metrics.policy_version, self.counters.env_steps, self.counters.seconds)
            self.evaluations.follow(made, steps_before, self._learner.parameters)

    def _tell_of_checkpoint(self) -> None:
        """Tell hooks of the newest checkpoint that is stored, once."""
        newest = self.newest
        if self.hooks and newest is not self._told_of and newest.policy_sha256:
            self._told_of = newest
            self.hooks.checkpoint(checkpoint_file(self.directory, newest.updates))

    def _write_evaluation(self, of: Evaluated, weights: Weights, row: Mapping[str, Any]) -> None:
        row = {**self.tables.common(), **row}
        self.tables.append("evaluations", [row])
        self.hooks.evaluation(row)
        self.evaluation_return = row["mean_return"]
        self._best.judge(of.policy_version, row["mean_return"], weights)

    def _say_recording_cut(self, world_episode: int, ticks: int) -> None:
        self.tables.log(of_runs.RecordingCut(world_episode=world_episode, ticks=ticks))

    @property
    def why_good_enough(self) -> str | None:
        """Return that the mean return has reached what the run is to stop at, or that a hook has asked for its end.

        It is the end of a sentence; None while neither is so.
        """
        if self.hooks and (asked := self.hooks.why_stop):
            return asked
        wanted, reached = self.settings.train.stop_at_return, self.tracker.mean_return
        if wanted is None or reached is None or not self.tracker.is_representative or reached < wanted:
            return None
        return f"its mean return, {reached:.6g}, has reached train.stop_at_return, {wanted:g}"

    def end(
        self,
        status: Status,
        reason: str | None,
        copy_rest: Callable[[], CallersPart],
        event: type[of_runs.End] | None = None,
    ) -> Summary:
        """Write down that the run has ended and why, store the last checkpoint, and return what it holds.

        A run that has finished waits for its evaluations first, and raises what stopped them.
        `event` is what has happened, where the caller does not know what happened to the run.
        """
        if status == "finished":
            self.evaluations.finish()
        self.hooks.end(status)
        kind = event or (of_runs.RunFinished if status == "finished" else of_runs.RunInterrupted)
        self.tables.log(kind(update=self._learner.version, reason=reason))
        self.checkpoint(status, copy_rest)
        return self.stored()

    def _write_episodes(self, part: RecordedRollout, rows: list[Mapping[str, Any]]) -> FinishedEpisodes:
        """Write down the episodes that ended in a rollout; append them to `rows` where hooks are to see them."""
        for gap in part.gaps:
            self.forget(gap.slots, go_on=gap.goes_on)
        first_id = self.tracker.ended
        episodes = self._numbers.number(part.rollout.world_episode, part.first_slot // self._agents)
        rollout = part.rollout.replace(world_episode=episodes)
        finished = self.tracker.follow(rollout, part.first_slot)
        common = {
            **self.tables.common(),
            "env_steps": self.counters.env_steps,
            "policy_version": part.policy_version,
        }
        ended = list(episode_rows(finished, self._agents, first_id, common))
        if self.hooks.see_episodes:
            rows += ended
        self.tables.append("episodes", ended)
        if part.first_slot == 0:
            self.episode_recorder.follow(rollout, part.policy_version)
        return finished

    def forget(self, slots: slice, *, go_on: bool = False) -> None:
        """Drop the episodes in progress of some of the run's slots.

        They will not end, because their worlds were lost, or they `go_on` with a hole that nobody has seen.
        """
        self.tracker.forget(slots, go_on=go_on)
        if not go_on:
            stop = None if slots.stop is None else slots.stop // self._agents
            self._numbers.begin_anew(slice(slots.start // self._agents, stop))
        if slots.start == 0:
            self.episode_recorder.forget(go_on=go_on)

    def on_idle(self, tell: Callable[[], object]) -> None:
        """Have `tell` called, in a thread of its own, whenever a checkpoint is stored or could not be."""
        self._store.on_idle = tell

    def check_stored(self) -> None:
        """Raise AnalyticsError when the last checkpoint could not be stored; does not wait for one in progress."""
        _ = self._store.is_idle

    def checkpoint_due(self, clock: RunClock) -> bool:
        """Whether it is time for a checkpoint, and the last one is stored; raises AnalyticsError when that failed."""
        return self.is_idle and clock.checkpoint_due(self._store.seconds, self._store.cost)

    @property
    def is_idle(self) -> bool:
        """Whether the last checkpoint is stored; raises AnalyticsError when that failed."""
        return self._store.is_idle

    def checkpoint(self, status: Status, copy_rest: Callable[[], CallersPart]) -> None:
        """Begin to store everything that decides how the run continues: the recorder's own, and the caller's part.

        Waits for the checkpoint before, and raises AnalyticsError when that one failed; then only until all is copied.
        """
        if self.hooks:
            self._store.wait()
            self._tell_of_checkpoint()
        self._store.begin(lambda: self._snapshot(status, *copy_rest()))

    def wait_stored(self) -> None:
        """Wait until the last checkpoint is stored; raises AnalyticsError. Hooks are told later, when they run."""
        self._store.wait()

    def stored(self) -> Summary:
        """Wait until the last checkpoint is stored, tell hooks, and return what it holds; raises AnalyticsError."""
        self.wait_stored()
        self._tell_of_checkpoint()
        return self.newest

    @property
    def newest(self) -> Summary:
        """Return what the newest stored checkpoint holds; any thread may ask."""
        return self._store.stored

    def _snapshot(self, status: Status, parts: Arrays, numbers: Mapping[str, Any]) -> Snapshot:
        hooks, of_hooks = self.hooks.state()
        reach, sync_tables = self.tables.flush()
        evaluated, pending = self.evaluations.state()
        own: Arrays = {
            **evaluated,
            "hooks": hooks,
            "learner": self._learner.state(),
            "tracker": self.tracker.state(),
            "recorder": self.episode_recorder.state(),
            "episode_numbers": self._numbers.state(),
            "best": self._best.state(),
        }
        own_numbers = {
            "env_steps": self.counters.env_steps,
            "seconds": self.counters.seconds,
            "started": self.counters.started,
            "origin": self.counters.origin,
            "tables": reach,
            "config": self.settings.model_dump(mode="json"),
            "evaluations": pending,
            "evaluation_return": self.evaluation_return,
            "best_is_evaluated": self.evaluations.are_made,
            **self._best.numbers(),
            **of_hooks,
        }
        best = self._best.new()
        return Snapshot(
            checkpoint=Checkpoint(join_parts({**own, **parts}), {**numbers, **own_numbers}),
            policy=self._policy_maker(),
            best=None if best is None else as_policy(self._learner, self.environment, best),
            summary=self.summary(status, ""),
            sync_tables=sync_tables,
        )

    def _policy_maker(self) -> Callable[[], bytes]:
        """Return what gives the newest policy file: at once where it is made, else when the disk has time for it."""
        if self._file is not None and self._file[0] == self._learner.version:
            file = self._file[1]
            return lambda: file
        return partial(dump_policy, as_policy(self._learner, self.environment))

    def policy_file(self) -> bytes:
        """Return the learner's policy as a policy file, which is made once a version."""
        if self._file is None or self._file[0] != self._learner.version:
            self._file = self._learner.version, dump_policy(as_policy(self._learner, self.environment))
        return self._file[1]

    def fail(self, error: Exception, text: str | None = None, *, quiet: bool) -> None:
        """Write down that the run has ended in an error, keeping the last checkpoint, its policy and the best one.

        `text` says what has happened, where the error does not; with `quiet`, the caller tells people.
        """
        with suppress(Exception):  # whatever happens to hooks and the last checkpoint must not hide the error
            self.hooks.end("failed")
        with suppress(Exception):
            self._store.wait()
            if (best := self._best.new()) is not None:  # since the last checkpoint
                write_atomically(
                    self.directory.best_policy, dump_policy(as_policy(self._learner, self.environment, best))
                )
        self.tables.log(of_runs.RunFailed(error=text or str(error)), error, quiet=quiet)
        policy = self.directory.policy
        digest = hashlib.sha256(policy.read_bytes()).hexdigest() if policy.exists() else ""
        counters, summary = self.counters, self.summary("failed", digest)
        row = run_row(self.settings, summary, counters.started, counters.origin)
        write_run_row(self.directory, row)
        self.tables.publish_run(row)

    def summary(self, status: Status, policy_sha256: str) -> Summary:
        """Return the result of the run so far."""
        seconds = self.counters.seconds
        return Summary(
            run_id=self.run_id,
            run_dir=str(self.directory.path),
            status=status,
            env_steps=self.counters.env_steps,
            seconds=seconds,
            env_steps_per_second=self.counters.env_steps / seconds if seconds else 0.0,
            updates=self._learner.version,
            episodes=self.tracker.ended,
            mean_return=self.tracker.mean_return,
            mean_episode_length=self.tracker.mean_length,
            policy_version=self._learner.version,
            policy_sha256=policy_sha256,
            **self._best.numbers(),
        )

    def close(self) -> None:
        """Stop evaluations, wait for the last checkpoint and close the files; raises AnalyticsError."""
        with closing(self.tables), closing(self.evaluations):
            self._store.close()


def checkpoint_mismatch(error: Exception) -> RunError:
    """Return what to say of a checkpoint that `restore` failed on with something other than a RattleError."""
    return RunError(f"the checkpoint lacks what this version needs ({error}): it cannot be resumed")
