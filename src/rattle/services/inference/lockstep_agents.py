"""All snakes of a process as one member of a lockstep run: they act together, and answer with one voice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from rattle.clients.errors import ClientError
from rattle.clients.lockstep_member import LockstepMember, MemberAnswer, MemberSettings, Work
from rattle.clients.retries import persevere
from rattle.events import emit, of_lockstep
from rattle.services.inference.actors import ActorHistory
from rattle.services.inference.lockstep_snake import LockstepSnake
from rattle.wire.lockstep import RUN_OVER, Role


class LockstepAgents:
    """Has every snake act in each phase act; `join` and `leave` in one event loop.

    A process that came later than the first tick does not know what was before, and gives no hashes.
    """

    def __init__(
        self,
        member: MemberSettings,
        name: str,
        snakes: Sequence[LockstepSnake],
        refused: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """Prepare; `refused` is told why this member is led no more though the run continues.

        Raises ClientError for an address that is none.
        """
        self._refused = refused
        self.history = ActorHistory(0, {})
        self._member = LockstepMember(member, name, Role.AGENT, self._begin, self._end)
        self._name = name
        self._snakes = sorted(snakes, key=lambda snake: snake.assignment.name)
        self._tick = 0
        self._knows_all = False
        self._working: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Begin to take part; waits for a Sync service whose host is not known yet."""
        await persevere(self._start, lambda error: isinstance(error, ClientError))

    async def leave(self) -> None:
        """Stop playing, in the middle of lives and of the work, and say goodbye."""
        await self._stop_playing("the service is stopping")
        await self._member.leave()

    async def act(self, work: Work) -> MemberAnswer:
        """Do the work of a phase act, however long that takes, and return the answer."""
        if work.tick <= self._tick or not self._tick:  # another run, or the first work of this process
            self._knows_all = work.tick == 1 and not self._tick
        self._tick = work.tick
        async with asyncio.TaskGroup() as tasks:
            for snake in self._snakes:
                tasks.create_task(snake.act(work))
        hashes = {
            snake.assignment.name: snake.history
            for snake in self._snakes
            if snake.history is not None and self._knows_all
        }
        self.history = ActorHistory(work.tick - 1, hashes)
        return MemberAnswer(hashes, idle=all(snake.idle for snake in self._snakes))

    async def _start(self) -> None:
        self._member.start()

    def _begin(self, work: Work) -> None:
        if self._ending is not None:  # work that was held up
            return
        self._working = asyncio.get_running_loop().create_task(self._do(work))

    async def _do(self, work: Work) -> None:
        try:
            answer = await self.act(work)
        except Exception as error:  # an answer would be a lie, and without one all others would wait forever
            emit(of_lockstep.MemberCannotAct(member=self._name, tick=work.tick), error=error)
            await self._stop_playing("internal error")
            await self._member.leave()
        else:
            self._member.finish(answer)

    def _end(self, reason: str) -> None:
        if reason == RUN_OVER:
            emit(of_lockstep.LockstepOver(member=self._name, reason=reason))
        else:
            left = of_lockstep.LockstepLeft(member=self._name, reason=reason)
            emit(left)
            self._refused(str(left))
        self._ending = asyncio.get_running_loop().create_task(self._stop_playing(reason))

    async def _stop_playing(self, reason: str) -> None:
        if self._working is not None and self._working is not asyncio.current_task():
            self._working.cancel()
            await asyncio.wait([self._working])
        for snake in self._snakes:
            await snake.stop(reason)
