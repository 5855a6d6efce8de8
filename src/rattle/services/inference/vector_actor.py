"""An actor that plays batches of worlds in an environment server, by the vector API."""

from __future__ import annotations

import threading
from contextlib import closing
from itertools import pairwise

from rattle.clients.retries import retry_forever
from rattle.envs.errors import EnvironmentFailed, WorldsLost
from rattle.envs.seeds import derive_seed
from rattle.errors import RattleError
from rattle.events import bind, emit, of_runs
from rattle.policies.acting import ActingPolicy
from rattle.rollouts.collector import Collector, WorldBatch, WorldsActor
from rattle.rollouts.worlds import build_worlds
from rattle.runs.episode_recorder import recorded_episodes
from rattle.services.inference.actors import ActorHandle, Assignment
from rattle.services.inference.rollout_sender import RolloutSender
from rattle.services.inference.rollouts import to_message
from rattle.services.inference.training_link import ReceivedPolicy
from rattle.settings.experiment import ExperimentSettings


class VectorActor:
    """Plays some of a run's worlds in two sessions in turn: while one is stepped in the server, it acts in the other.

    A rollout is played by one policy from its first tick to its last, in one life of the server. `settings` are those
    of the policy that plays.
    """

    def __init__(self, settings: ExperimentSettings, assignment: Assignment) -> None:
        env = settings.env.model_copy(update={"url": assignment.env_url})
        self._settings = settings.model_copy(update={"env": env})
        self._assignment = assignment
        self._in_order = settings.training.mode == "on_policy"

    def play(self, contributions: RolloutSender, control: ActorHandle) -> None:
        """Play until told to stop, whatever happens to the servers; no more once the environment has failed."""
        bind(agent=self._assignment.name)
        while not control.stop.is_set():
            try:
                retry_forever(control.stop, _may_pass)(self._play_in_new_worlds, contributions, control)
            except EnvironmentFailed as error:
                control.report("failed", str(error))
                emit(of_runs.EnvironmentFailed(agent=self._assignment.name, error=str(error)))
                control.stop.wait()
            except RattleError as error:  # stopping
                control.report("waiting", str(error))

    def _play_in_new_worlds(self, contributions: RolloutSender, control: ActorHandle) -> None:
        """Play in worlds of its own until they fail; raises a RattleError when they do so before the first rollout."""
        control.report("waiting", "for a policy")
        held = contributions.policy()
        if held is None:
            return
        control.report("waiting", f"for {self._assignment.env_url}")
        before = control.report_so_far.rollouts
        try:
            collector = self._open(held, contributions.life, control.stop)
            with closing(collector):
                _PlayLoop(self._settings, self._assignment, self._in_order, collector).play(
                    held, contributions, control
                )
        except RattleError as error:
            control.report("waiting", str(error))
            if control.report_so_far.rollouts == before or not _may_pass(error):
                raise
            emit(of_runs.PlayBegunAnew(agent=self._assignment.name, error=str(error)))

    def _open(self, held: ReceivedPolicy, life: str, stop: threading.Event) -> Collector:
        """Make the worlds; later in a run these play other games than those that the run began with."""
        first, worlds = self._assignment.first_world, self._assignment.worlds
        turns = min(2, worlds)
        bounds = [first + worlds * number // turns for number in range(turns + 1)]
        owner = f"{held.lineage}/{self._assignment.name}", life  # actors of other runs have other lineages
        groups: list[WorldBatch] = []
        try:
            for start, after in pairwise(bounds):
                groups.append(WorldBatch(build_worlds(self._settings, after - start, start, stop, owner), start, first))
            if held.policy.version:
                for group in groups:
                    group.worlds.reset(derive_seed(self._settings.seed, "worlds", held.policy.version))
        except RattleError:
            for group in groups:
                group.worlds.close()
            raise
        ticks, complete = held.rollouts(self._settings.algorithm)
        collector = Collector(
            [WorldsActor(groups)],
            ticks,
            complete_episodes=complete,
            max_reward=self._settings.train.max_reward,
        )
        collector.ticks = held.first_tick
        collector.remember(held.policy.spec.memory_size)
        return collector


class _PlayLoop:
    """The rollouts of one set of worlds."""

    def __init__(
        self, settings: ExperimentSettings, assignment: Assignment, in_order: bool, collector: Collector
    ) -> None:
        self._settings = settings
        self._assignment = assignment
        self._in_order = in_order
        self._collector = collector
        self._goes_on = False  # whether the next rollout follows the last one's last tick

    def play(self, held: ReceivedPolicy, contributions: RolloutSender, control: ActorHandle) -> None:
        """Play rollout after rollout, each with the newest policy."""
        seed = derive_seed(self._settings.seed, "actions")
        acting = ActingPolicy(held.policy.spec, held.policy.parameters, seed)
        while control.may_go_on():
            if not self._play_rollout(acting, held, contributions, control):
                continue
            if self._in_order:
                control.report("waiting", "for the next policy")
            following = contributions.policy(newer_than=held if self._in_order else None)
            if following is None:
                return
            if following.name != held.name:
                self._catch_up(acting, held, following)
                acting = ActingPolicy.after(acting, following.policy.spec, following.policy.parameters, seed)
                held = following

    def _play_rollout(
        self, acting: ActingPolicy, held: ReceivedPolicy, contributions: RolloutSender, control: ActorHandle
    ) -> bool:
        """Play and contribute a rollout; returns False when the worlds were lost meanwhile and began again."""
        version = held.policy.version
        control.report("playing", policy_version=version)
        bind(policy_version=version)
        try:
            _, complete = held.rollouts(self._settings.algorithm)
            records = recorded_episodes(self._settings, version, complete_episodes=complete)
            rollout = self._collector.collect(acting, version, records)
        except WorldsLost as loss:
            self._begin_anew(loss)
            return False
        message = to_message(rollout, self._assignment.first_world, held.policy.spec.action)
        control.count(rollouts=1, env_steps=rollout.world_episode.size)
        contributions.contribute(message, held, continues=self._goes_on)
        self._goes_on = True
        return True

    def _catch_up(self, acting: ActingPolicy, held: ReceivedPolicy, following: ReceivedPolicy) -> None:
        """Be at the tick at which all worlds of the run begin the next policy's rollout.

        Where rollouts are complete episodes, those of other actors may have taken longer.
        """
        if not self._in_order:
            return
        behind = following.first_tick - self._collector.ticks
        if behind > 0 and following.lineage == held.lineage:
            try:
                self._collector.play_on(acting, behind)
            except WorldsLost as loss:
                self._begin_anew(loss)
        self._collector.ticks = following.first_tick

    def _begin_anew(self, loss: WorldsLost) -> None:
        emit(of_runs.WorldsLost(agent=self._assignment.name, error=str(loss)))
        self._goes_on = False
        self._collector.restart()


def _may_pass(error: BaseException) -> bool:
    """Whether an error may go away by itself, as where a server comes back: an environment that fails does not."""
    return isinstance(error, RattleError) and not isinstance(error, EnvironmentFailed)
