"""One snake of a lockstep run (docs/sync-api.md): what it does in a phase act follows from its lines and policy alone.

No clock decides anything here: whatever has to be waited for is waited for within the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from rattle.clients.agent_client import MOVES, AgentState, AsyncAgentClient, AsyncStream, LinkTimeouts
from rattle.clients.agent_protocol import MoveName, is_alive
from rattle.clients.errors import RequestRefused
from rattle.clients.lockstep_member import Work
from rattle.clients.retries import persevere
from rattle.errors import RattleError
from rattle.events import emit, of_runs
from rattle.services.inference.actors import ActorHandle, Assignment
from rattle.services.inference.agent_episode import AgentEpisode
from rattle.services.inference.agent_lives import AgentLives
from rattle.services.inference.rollout_sender import RolloutSender
from rattle.services.inference.training_link import ReceivedPolicy
from rattle.settings.experiment import ExperimentSettings
from rattle.wire.history import BEGINNING, PLACED, after_line

_Result = TypeVar("_Result")

#: What fails is tried again here, for as long as it takes.
_LIMITS = LinkTimeouts(retry=0.0)
_FORWARD = MOVES.index("forward")
#: How long a snake waits for the policy that all have played for, in seconds. Where it does not come, services have
#: died close together and not all rollouts were counted: others must play again, and for that the world must tick.
_PATIENCE = 120.0


class LockstepSnake:
    """Plays one life after another, each with one policy.

    Draws of actions are numbered by the ticks of the lockstep run, and those that were learnt from before it.

    A life of which lines are missing is forgotten, and another one is begun. One that is cut, because it is as long as
    a rollout may be, continues: forward, until there is another policy, which plays it as a life of its own.
    """

    def __init__(
        self,
        settings: ExperimentSettings,
        assignment: Assignment,
        contributions: RolloutSender,
        control: ActorHandle,
        threads: Executor,
    ) -> None:
        self.assignment = assignment
        self.contributions = contributions
        self.control = control
        self.idle = False  # until all are, or forever
        self.history: bytes | None = None  # None before the first line
        self._in_order = settings.training.mode == "on_policy"
        self._threads = threads
        self._client = AsyncAgentClient(assignment.env_url, assignment.name, _LIMITS)
        self._lives = AgentLives(settings, assignment)
        self._held: ReceivedPolicy | None = None  # that plays, or played last
        self._earlier_ticks: int | None = None
        self._stream: AsyncStream | None = None  # of a snake that is in the world, or is placed in it next
        self._line: AgentState | None = None  # the newest of the stream
        self._episode: AgentEpisode | None = None  # that is recorded
        self._move = PLACED  # that leads to the next line
        self._tick = 0  # whose work has been done
        self._may_live = True  # in the world, without a stream: an earlier process may have played it
        self._in_trouble = False  # which has been said

    async def act(self, work: Work) -> None:
        """Take in what has happened to the snake, and have it move, or begin a life; returns when the server knows."""
        move = await self._take_lines(work.tick)
        if self._episode is not None and self._episode.over:
            await self._contribute(self._episode)
        if work.last:
            return
        if self._episode is None:
            move = await self._begin(work)
        while move is not None and not await self._send(move):
            move = await self._begin(work)

    async def stop(self, reason: str) -> None:
        """Let go of all connections, in the middle of a life."""
        self.control.report("stopped", reason)
        await self._client.close()

    async def _take_lines(self, tick: int) -> MoveName | None:
        """Take the line of every tick since the last work; return the move that answers the newest, if one is due."""
        if self._stream is not None and tick <= self._tick:
            await self._lose("another lockstep run has begun")
        move: MoveName | None = None
        for _ in range(self._tick, tick):
            if self._stream is None:
                break
            try:
                move = await self._take(await self._next_line(self._stream))
            except RattleError as error:
                await self._lose(str(error))
        self._tick = tick
        return move

    async def _next_line(self, stream: AsyncStream) -> AgentState:
        """Return the next line; a stream that breaks continues with the present one, but where there was none yet."""
        return await (stream.next_state() if self._line is None else persevere(stream.next_state))

    async def _take(self, line: AgentState) -> MoveName | None:
        seen = line.observation()
        self.history = after_line(
            self.history or BEGINNING, line.tick, self._move, line.reward, line.length, line.game_over, seen
        )
        self._move = _FORWARD
        self._line = line
        if line.game_over:
            await self._leave()
        if self._episode is None or self._episode.over:
            return None
        self.control.report("playing")
        return self._episode.take(line)

    async def _contribute(self, episode: AgentEpisode) -> None:
        self._episode = None
        if not episode.ticks or self._held is None:
            return
        self.idle = self._in_order
        self._in_trouble = False
        self.control.report("waiting", "for a receipt")
        await self._aside(partial(self._lives.contribute, episode.ticks, self._held, self.contributions, self.control))
        self.control.report("waiting", "for the next policy")

    async def _begin(self, work: Work) -> MoveName | None:
        """Begin a life if it is time to; return the move of a snake that is in the world already."""
        held = await self._next_policy(work)
        if held is None:
            return None
        if self._line is not None:
            try:
                return self._play_on(held, self._line, work.tick)
            except RattleError as error:
                await self._lose(str(error))
        self.control.report("waiting", f"for {self.assignment.env_url}", held.policy.version)
        try:
            return await persevere(partial(self._join, held, work.tick), _goes_away)
        except RequestRefused as error:  # by a world that is full: in another tick there may be room
            await self._lose(str(error))
            return None

    async def _next_policy(self, work: Work) -> ReceivedPolicy | None:
        """Return the policy of another life; None where that must wait for other agents, or nothing more is learnt."""
        if self.idle and not work.all_idle:
            return None
        known = self._lives.contributed if self._in_order else None
        seconds = None if self._held is None else _PATIENCE
        self._held = await self._aside(
            partial(self.contributions.policy, newer_than=known, or_the_last=True, seconds=seconds)
        )
        if self._held is not None and known is not None and self._held.name == known.name:
            emit(of_runs.PolicyLate(agent=self.assignment.name, seconds=_PATIENCE))
        self.idle = self._held is None or self._held.finished
        if self._held is not None and self._earlier_ticks is None:
            self._earlier_ticks = self._held.first_tick
        if self.idle:
            self.control.report("stopped", "nothing more is learnt")
        return None if self.idle else self._held

    async def _join(self, held: ReceivedPolicy, tick: int) -> MoveName | None:
        """Have the server place the snake in its next step; return the move of one that is in the world still."""
        is_there = self._may_live and is_alive(await self._client.state(), self.assignment.name)
        await self._leave()
        self._stream = stream = await self._client.follow("all")
        if is_there:  # the present line comes at once
            self._line = await stream.next_state()
            self._move = _FORWARD
            move = self._play_on(held, self._line, tick)
        else:
            self._move = PLACED
            self._episode, move = self._new_episode(held, tick + 1), None
        self._may_live = False
        return move

    def _play_on(self, held: ReceivedPolicy, line: AgentState, tick: int) -> MoveName | None:
        """Begin a life with the present line of a snake that is in the world; return its move."""
        self._episode = self._new_episode(held, tick)
        self.control.report("playing", policy_version=held.policy.version)
        return self._episode.take(line)

    def _new_episode(self, held: ReceivedPolicy, tick: int) -> AgentEpisode:
        return self._lives.begin(held, (self._earlier_ticks or 0) + tick)

    async def _send(self, move: MoveName) -> bool:
        """Have the server know a move, which may be repeated since no tick comes before; False if the snake is lost."""
        try:
            await persevere(partial(self._client.move, move))
        except RattleError as error:
            await self._lose(str(error))
            return False
        self._move = MOVES.index(move)
        return True

    async def _lose(self, why: str) -> None:
        """Forget a life; says so once until one has been seen whole."""
        if not self._in_trouble:
            emit(of_runs.LifeForgotten(agent=self.assignment.name, error=why))
        self._in_trouble = self._may_live = True
        self._episode = None
        await self._leave()

    async def _leave(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
        self._stream = self._line = None

    async def _aside(self, call: Callable[[], _Result]) -> _Result:
        """Do what waits in a thread: the other snakes live in this one."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _goes_away(error: BaseException) -> bool:
    """Say whether an error of joining may go away though no tick comes before; only other snakes can make room."""
    return isinstance(error, RattleError) and not (isinstance(error, RequestRefused) and error.code == "full")
