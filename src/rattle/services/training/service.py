"""The use cases of the Training service, whatever they are asked over."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from rattle.envs.vector import EnvironmentSpec
from rattle.events import emit, of_runs
from rattle.learning.learner import UpdateMetrics
from rattle.services.training.actors import ActorStream, Life
from rattle.services.training.given_policies import GivenPolicies
from rattle.services.training.introduction import check_learnable, check_same, read_introduction
from rattle.services.training.learning_loop import MOST_REQUESTS, LearningLoop
from rattle.services.training.opening import open_loops, waits_for_actors
from rattle.services.training.policy_run import Update
from rattle.services.training.rollout_batcher import Verdict
from rattle.services.training.rollout_messages import Contribution, part_of, read_contribution
from rattle.services.utils.protos import training_pb2
from rattle.settings.experiment import ExperimentSettings
from rattle.wire.problems import RequestError

#: Rollouts that are decoded at a time; more wait.
_DECODERS = 4
#: Actors that one event names.
_MOST_NAMED = 5

Result = TypeVar("Result")
Given = TypeVarTuple("Given")


class TrainingService:
    """Learns policies: `start` and `stop` it, and in between ask it what the gRPC face asks."""

    def __init__(
        self,
        settings: ExperimentSettings,
        run_dir: Path | None,
        give_up: Callable[[Exception], None] | None = None,
        *,
        run_id: str | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        """`give_up` is told why a run cannot begin, when an actor has come for it.

        A run that begins has the `run_id`, where one is given; `on_end` is called when all runs have ended.
        """
        self.settings = settings
        self.policies = settings.training.policies
        self.lineage = secrets.token_hex(8)
        #: Whether the runs are complete when the service is stopped, though none has reached a limit.
        self.is_complete = False
        self.loops: dict[str, LearningLoop] = {}
        self._run_dir = run_dir
        self._give_up = give_up
        self._run_id = run_id
        self._on_end = on_end
        self._given = GivenPolicies(settings)
        self._given_thread = ThreadPoolExecutor(1, "given policies")
        self._decoders = ThreadPoolExecutor(_DECODERS, "decoder")
        self._learning: list[asyncio.Task[None]] = []
        self._refused_introduction = ""  # why the last one was
        self._given_waiting = 0
        self._is_stopping = False
        self._stored = asyncio.Event()
        self._stack = ExitStack()

    def has_finished(self) -> bool:
        """Whether the runs of all policies are at their ends; raises RequestError for one that has failed."""
        if failed := [loop for loop in self.loops.values() if loop.status == "failed"]:
            raise failed[0].ended_error()
        return bool(self.loops) and all(loop.status == "finished" for loop in self.loops.values())

    def takes_rollouts(self) -> bool:
        """Whether rollouts of any policy are taken, be it to say that its run is over; those of failed runs are not."""
        failed = [loop.status == "failed" for loop in self.loops.values()]
        return not self._is_stopping and not (failed and all(failed))

    async def start(self) -> None:
        """Open the runs and begin to learn, unless an actor must say first what it plays.

        Raises RattleError when a run cannot be had.
        """
        if waits_for_actors(self.settings, self._run_dir):
            emit(of_runs.EnvironmentAwaited(environment=self.settings.env.id))
        else:
            self._begin()

    async def introduce(self, described: str, peer: str) -> None:
        """Take in what an actor says that it plays; with the first that says so, a run that waits for it begins.

        Raises RequestError where that is not what is learnt here.
        """
        if not described:
            return
        try:
            environment = await self._decode(read_introduction, described, self.settings.env)
            if not self.loops:
                await self._decode(check_learnable, environment, self.settings)
        except RequestError as error:
            if not self.loops and str(error) != self._refused_introduction:
                self._refused_introduction = str(error)
                emit(of_runs.IntroductionRefused(peer=peer, error=str(error)))
            raise
        if not self.loops and not self._is_stopping:
            try:
                self._begin(environment)
            except Exception as error:
                self._is_stopping = True
                if self._give_up is None:
                    raise
                self._give_up(error)
        if self.loops:
            check_same(next(iter(self.loops.values())).run.recorder.environment, environment)

    async def stop(self) -> None:
        """End streams and runs: each after the updates in progress and due, with a checkpoint."""
        self._is_stopping = True
        for loop in self.loops.values():
            loop.stop(is_complete=self.is_complete)
            loop.actors.end_streams(_stopping())
        await asyncio.gather(*self._learning)
        self._stored.set()
        for loop in self.loops.values():
            await loop.close()
        self._given_thread.shutdown(cancel_futures=True)
        self._given.close()
        self._decoders.shutdown()
        self._stack.close()

    async def until_stored(self) -> None:
        """Return at once, or if the service is stopping when its runs have been stored."""
        if self._is_stopping:
            await self._stored.wait()

    def loop(self, policy_id: str) -> LearningLoop:
        """Return what learns a policy, the first for an empty name; raises RequestError when there is none."""
        if not self.loops:
            raise _stopping() if self._is_stopping else RequestError("starting", "no actor has said yet what it plays")
        if not policy_id:
            return next(iter(self.loops.values()))
        if policy_id not in self.loops:
            known = ", ".join(self.loops)
            raise RequestError("unknown_policy", f"policy_id: there is no '{policy_id[:40]}', but {known}", "policy_id")
        return self.loops[policy_id]

    async def contribute(self, stream: ActorStream, message: training_pb2.Rollout) -> tuple[Verdict, str, LearningLoop]:
        """Take in a rollout of an actor, or not, and say why; returns when the actor may continue."""
        loop = self.loop(message.policy_id)
        contribution = await self._read(loop, message)
        if stream.life is None or stream.life.actor != message.actor or stream.actors is not loop.actors:
            self._open(stream, loop, contribution, message.life_number)
        verdict, reason = await loop.contribute(contribution)
        return verdict, reason, loop

    async def improve(self, message: training_pb2.Rollout) -> tuple[Update, LearningLoop]:
        """Improve a policy of the service out of turn, where the settings allow that."""
        with part_of("rollout"):
            loop = self.loop(message.policy_id)
            if not self.settings.training.update_policy:
                raise RequestError(
                    "forbidden",
                    "the service's own policies are improved by rollouts of actors alone: send a policy to be "
                    "improved, or start the service with training.update_policy=true",
                )
            contribution = await self._read(loop, message)
            if contribution.origin.worlds != loop.run.form.worlds:
                wanted = f"all {loop.run.form.worlds} worlds"
                raise RequestError("bad_value", f"observation: must be of {wanted} of the run", "observation")
            return await loop.improve(contribution), loop

    async def improve_given(self, policy: bytes, message: training_pb2.Rollout) -> tuple[bytes, UpdateMetrics]:
        """Improve a policy that came with the request."""
        if self._is_stopping:
            raise _stopping()
        if self._given_waiting >= MOST_REQUESTS:
            raise RequestError("full", f"{MOST_REQUESTS} policies wait to be improved already: try again")
        self._given_waiting += 1
        work = asyncio.get_running_loop().run_in_executor
        try:
            return await work(self._given_thread, self._given.improve, policy, message)
        except asyncio.CancelledError:
            if self._is_stopping:
                raise _stopping() from None
            raise
        finally:
            self._given_waiting -= 1

    def _open(self, stream: ActorStream, loop: LearningLoop, first: Contribution, life_number: int) -> None:
        """Take a stream for that of the actor whose rollout is the first on it, and tell of whom it touches."""
        origin = first.origin
        worlds = range(origin.first_world, origin.first_world + origin.worlds)
        life = Life(origin.actor, origin.life, life_number, stream.peer, worlds)
        if (before := loop.actors.open(stream, life)) is not None:
            emit(of_runs.ActorReplaced(agent=life.actor, peer=life.peer, before=before.peer))
        own = self.settings.training
        if (others := loop.actors.others_in(life)) and (own.mode == "on_policy" or not loop.run.form.one_world):
            emit(of_runs.WorldsShared(agent=life.actor, peer=life.peer, others=", ".join(others[:_MOST_NAMED])))

    def _begin(self, environment: EnvironmentSpec | None = None) -> None:
        with ExitStack() as stack:
            self.loops = open_loops(self.settings, self._run_dir, self.lineage, stack, environment, self._run_id)
            self._stack = stack.pop_all()
        self._learning = [asyncio.create_task(self._learn(loop)) for loop in self.loops.values()]

    async def _learn(self, loop: LearningLoop) -> None:
        await loop.learn()
        if loop.status == "failed":
            loop.actors.end_streams(loop.ended_error())
        if self._on_end and all(one.status != "running" for one in self.loops.values()):
            on_end, self._on_end = self._on_end, None  # once
            await asyncio.gather(*(one.until_told() for one in self.loops.values()))
            if not self._is_stopping:
                on_end()

    async def _read(self, loop: LearningLoop, message: training_pb2.Rollout) -> Contribution:
        """Decode in a thread: large rollouts take milliseconds."""
        return await self._decode(read_contribution, message, loop.run.form)

    async def _decode(self, function: Callable[[*Given], Result], *given: *Given) -> Result:
        """Call a function in a thread of the decoders; raises RequestError when they may have ended."""
        if self._stored.is_set():
            raise _stopping()
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *given)


def _stopping() -> RequestError:
    return RequestError("shutting_down", "the service is stopping")
