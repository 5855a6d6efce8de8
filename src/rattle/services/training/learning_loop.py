"""One policy in the event loop: rollouts arrive, updates are made when they are due, and who waits is told."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rattle.errors import RattleError
from rattle.events import of_runs
from rattle.learning.errors import LearningError
from rattle.runs.progress import Status
from rattle.services.training.actors import MOST_UNLEARNT, Actors
from rattle.services.training.policy_run import PolicyRun, PublishedPolicy, Update
from rattle.services.training.rollout_batcher import ReceivedRollout, RolloutBatcher, Verdict
from rattle.services.training.rollout_messages import Contribution
from rattle.wire.problems import RequestError

Result = TypeVar("Result")

#: Updates out of turn that may wait: each holds a whole rollout.
MOST_REQUESTS = 16
#: How long those who watch a policy may take to be sent the last one, in seconds.
_PATIENCE_SECONDS = 5.0


def _answer(done: asyncio.Future[Update], answer: Update | RequestError) -> None:
    """Give who asked for an update its answer, if it still waits."""
    if done.done():
        return
    if isinstance(answer, RequestError):
        done.set_exception(answer)
    else:
        done.set_result(answer)


class News:
    """Wakes all who wait for something to have changed; who waits looks first whether it has."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        """Wake all who wait now."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, seconds: float | None = None) -> None:
        """Wait for the next change, or for some seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._next.wait()
        except TimeoutError:
            pass


class LearningLoop:
    """Learns one policy from what actors contribute, in a thread of its own, until a limit, an error or `stop`."""

    def __init__(self, policy_id: str, run: PolicyRun, intake: RolloutBatcher[Contribution]) -> None:
        self.policy_id = policy_id
        self.run = run
        self.intake = intake
        self.newest = run.policy()
        #: Where the run stood when the service began.
        self.first_version, self.stood = self.newest.version, run.standing
        self.status: Status = "running"
        self.error = ""
        self._stopping = False
        self._is_complete = False  # as is known elsewhere
        run.recorder.evaluations.wants_stop = lambda: self._stopping
        self.actors = Actors()
        self._waited, self._waits_since = 0.0, math.inf  # for rollouts
        self._requests: deque[tuple[Contribution, asyncio.Future[Update]]] = deque()
        self._untold: set[object] = set()  # those who watch, and have not been sent the last policy
        self._arrived = News()
        self._changed = News()
        self._thread = ThreadPoolExecutor(1, f"policy {policy_id}")

    async def learn(self) -> None:
        """Make updates until the run ends; an error fails this run and no other."""
        loop = asyncio.get_running_loop()
        self.run.recorder.on_idle(lambda: loop.call_soon_threadsafe(self._arrived.tell))
        try:
            if reason := self.run.why_over():
                self.run.tell(of_runs.NothingLeft(reason=reason))
                if self.run.has_ended:
                    self.status = "finished"
                    return
            await self._in_thread(self.run.recorder.begin)
            while not self.newest.finished and not self._stopping:
                await self._next_step()
            if self.intake.is_due and not self.newest.finished:
                # The last policy is decided by what was contributed, not by when the service was told to stop.
                await self._learn_from(self.intake.take())
            status: Status = "finished" if self.newest.finished or self._is_complete else "interrupted"
            await self._in_thread(lambda: self.run.end(status, self.intake.state()))
            self.status = status
        except RattleError as error:
            await self._fail(error, str(error))
        except Exception as error:  # the other policies continue
            await self._fail(error, f"internal error: {error!r}")
        finally:
            while self._requests:
                _answer(self._requests.popleft()[1], self.ended_error())
            self._changed.tell()

    def stop(self, *, is_complete: bool = False) -> None:
        """Have `learn` end after the update in progress, and the one that is due then; the run may be complete so."""
        self._stopping, self._is_complete = True, is_complete
        self._arrived.tell()
        self._changed.tell()

    async def close(self) -> None:
        """Free the learner and the files; `learn` has ended."""
        await self._in_thread(self.run.close)
        self._thread.shutdown()

    async def contribute(self, contribution: Contribution) -> tuple[Verdict, str]:
        """Take in a rollout, or not; returns when the actor may continue."""
        self._check_alive()
        self.run.begin()
        if self.newest.finished:
            return Verdict.FINISHED, "the run has reached its limit"
        origin = contribution.origin
        if reason := self.actors.refusal((origin.actor, origin.life)):
            self.intake.counts[Verdict.REFUSED] += 1
            return Verdict.REFUSED, reason
        verdict = self.intake.offer(origin, contribution)
        self._arrived.tell()
        while self.intake.must_wait(origin.actor) and not self._is_over:
            await self._changed.wait()
        return verdict

    async def improve(self, contribution: Contribution) -> Update:
        """Make an update out of turn from a rollout of all worlds by the newest version."""
        self._check_alive()
        if self.newest.finished:
            raise self.ended_error()
        if len(self._requests) >= MOST_REQUESTS:
            raise RequestError("full", f"{MOST_REQUESTS} updates wait to be made already: try again")
        self.run.begin()
        done: asyncio.Future[Update] = asyncio.get_running_loop().create_future()
        self._requests.append((contribution, done))
        self._arrived.tell()
        return await done

    async def watch(self, known: tuple[str, int] | None) -> AsyncIterator[PublishedPolicy]:
        """Yield the newest policy, unless its lineage and version are `known`, and then every new one."""
        self._check_alive()
        self.run.begin()
        self._arrived.tell()  # the clock runs
        seen, watcher = None if known is None else (*known, False), object()
        self._untold.add(watcher)
        try:
            while True:
                self._check_alive()
                newest, lineage = self.newest, self.intake.lineage
                if seen == (lineage, newest.version, newest.finished):
                    if newest.finished:
                        self._tell_apart(watcher)
                    await self._changed.wait()
                else:
                    seen = lineage, newest.version, newest.finished
                    yield newest
        finally:
            self._tell_apart(watcher)

    async def until_told(self) -> None:
        """Wait until all who watch have been sent the last policy, for a little while at most."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while self._untold:
                    await self._changed.wait()
        except TimeoutError:
            pass

    def _tell_apart(self, watcher: object) -> None:
        if watcher in self._untold:
            self._untold.remove(watcher)
            self._changed.tell()

    def ended_error(self) -> RequestError:
        """Return what is said to those who want to contribute to a run that has ended."""
        if self.status == "failed":
            return RequestError("run_over", f"the run of policy '{self.policy_id}' has failed: {self.error}")
        if self._stopping:
            return RequestError("shutting_down", "the service is stopping")
        return RequestError("run_over", f"the run of policy '{self.policy_id}' has reached its limit")

    @property
    def waited_seconds(self) -> float:
        """Return for how long no update was due."""
        return self._waited + max(0.0, time.monotonic() - self._waits_since)

    @property
    def _is_over(self) -> bool:
        return self._stopping or self.newest.finished or self.status != "running"

    def _check_alive(self) -> None:
        if self.status == "failed" or self._stopping:
            raise self.ended_error()

    async def _next_step(self) -> None:
        """Make the update that is due, or wait for something to arrive; raises what stopped the last checkpoint."""
        self.run.recorder.check_stored()
        if (
            self.run.recorder.why_good_enough
        ):  # before anything else is learnt: the same update ends every run of a seed
            self._publish(self.run.policy())
        elif self._requests:
            await self._improve(*self._requests.popleft())
        elif self.intake.is_due:
            await self._learn_from(self.intake.take())
        elif self.run.why_over():
            self._publish(self.run.policy())
        else:
            self._waits_since = time.monotonic()
            await self._arrived.wait(self.run.seconds_left)
            self._waited, self._waits_since = self.waited_seconds, math.inf

    async def _learn_from(self, parts: list[ReceivedRollout[Contribution]]) -> None:
        """Make the update that is due; raises LearningError when none could be made of what anybody sends."""
        self._changed.tell()  # there is room for more
        try:
            update = await self._update(parts)
        except LearningError as error:
            await self._blame(parts, error)
            # Another lineage has actors play this version once more: nothing that they played is counted now.
            self.intake.drop(parts, secrets.token_hex(8))
            self._changed.tell()
            return
        self.actors.praise({part.origin.actor for part in parts})
        await self._write_down(update)

    async def _blame(self, parts: list[ReceivedRollout[Contribution]], error: LearningError) -> None:
        """Refuse those of whose rollouts several updates could not be made; raises the error where nobody is left."""
        blamed = await self._in_thread(lambda: self.run.find_unlearnable(parts))
        agents = {actor for actor, _ in blamed}
        refused = self.actors.blame(blamed)
        if refused and not self.actors.are_there_besides(refused):
            raise error
        self.run.tell(of_runs.RolloutDropped(agent=agents.pop() if len(agents) == 1 else None, error=str(error)))
        for actor, life in refused:
            event = of_runs.ActorRefused(agent=actor, updates=MOST_UNLEARNT, error=str(error))
            self.actors.refuse((actor, life), str(event))
            self.run.tell(event)

    async def _improve(self, contribution: Contribution, done: asyncio.Future[Update]) -> None:
        """Make an update out of turn; what is wrong with the rollout is said to who sent it, and is no failure."""
        origin = contribution.origin
        if done.done():  # who asked has gone
            return
        for name, newest in (("lineage", self.intake.lineage), ("policy_version", self.intake.version)):
            if getattr(origin, name) != newest:
                said = f"{name}: the rollout must be of the newest policy, {newest}"
                _answer(done, RequestError("bad_value", said, name))
                return
        try:
            update = await self._update([ReceivedRollout(origin, contribution, self.intake.follows(origin))])
        except LearningError as reason:
            _answer(done, RequestError("bad_value", str(reason)))
            return
        self.intake.follow(origin)
        _answer(done, update)
        await self._write_down(update)

    async def _update(self, parts: list[ReceivedRollout[Contribution]]) -> Update:
        """Learn, and have the new policy go out; `_write_down` must follow."""
        update = await self._in_thread(lambda: self.run.learn(parts))
        self.intake.learnt(parts, update.policy.version)
        self._publish(update.policy)
        return update

    async def _write_down(self, update: Update) -> None:
        """Store an update, after the policy has gone out: who waits for that does not wait for the disk."""
        stored = self.intake.state() if self.run.checkpoint_due() and not update.policy.finished else None
        await self._in_thread(lambda: self.run.write_down(update, stored))

    def _publish(self, policy: PublishedPolicy) -> None:
        self.newest = policy
        self._changed.tell()

    async def _fail(self, error: Exception, text: str) -> None:
        self.status, self.error = "failed", text
        await self._in_thread(lambda: self.run.fail(error, text, self.intake.state()))

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        """Do what takes long apart from the event loop, one thing after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
