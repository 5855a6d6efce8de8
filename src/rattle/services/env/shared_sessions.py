"""Sessions that concurrent requests share: one at a time in each, and worlds that are slow in threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from numpy.typing import NDArray

from rattle.events import emit, of_services
from rattle.samples.spaces import ActionSpace
from rattle.services.env.metrics import EnvMetrics
from rattle.services.env.sessions import Message, RequestKey, Session, Sessions
from rattle.wire.problems import RequestError
from rattle.wire.vector import SessionRequest

Result = TypeVar("Result")

#: A session with a step that took longer than this is stepped in a thread, so that it keeps nobody waiting.
INLINE_SECONDS = 0.004
#: Quick steps in a row, at most, before a session is not stepped in a thread any more.
_MOST_PATIENCE = 64
#: How long running requests are waited for when the service stops, in seconds.
_CLOSE_SECONDS = 3.0


class _Use:
    """What the face keeps for each session in use: requests to it wait for each other."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._patience = 1
        self._threaded = 1  # quick steps that it takes until steps are no more taken in a thread

    @property
    def slow(self) -> bool:
        """Return whether the next step is better taken in a thread."""
        return self._threaded > 0

    def took(self, seconds: float) -> None:
        """Learn from a step; environments that are slow now and then need more and more quick steps to be trusted."""
        if seconds > INLINE_SECONDS:
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
            self._threaded = self._patience
        elif self._threaded:
            self._threaded -= 1


class SharedSessions:
    """The sessions of a server, each used by one request at a time."""

    def __init__(self, sessions: Sessions, metrics: EnvMetrics) -> None:
        self._sessions = sessions
        self._metrics = metrics
        self._uses: dict[str, _Use] = {}
        self._closing = False

    async def create(self, request: SessionRequest, peer: str) -> Message:
        """Make a session for a peer, in a thread."""
        self._check_open()
        await self.close_unused()
        memory_bytes = await asyncio.to_thread(self._sessions.measure, request)
        for session in self._sessions.begin_life(request):
            await self._close(session)
        promise = self._sessions.promise(request, memory_bytes, peer)
        try:
            session = await asyncio.to_thread(self._sessions.make, promise)
        except BaseException:
            self._sessions.take_back(promise)
            raise
        self._sessions.add(session, time.monotonic())
        self._check_open()
        return session.created() | {"expires_seconds": self._sessions.limits.unused_seconds}

    def check(self, session_id: str) -> None:
        """Raise RequestError when there is no such session, or not for much longer."""
        self._session(session_id)

    def socket_opened(self, session_id: str) -> None:
        """Know of a WebSocket of a session."""
        self._sessions.socket_opened(session_id)

    def socket_closed(self, session_id: str, *, broken: bool) -> None:
        """Know that it closed; one that broke without a goodbye leaves its session a few seconds only."""
        self._sessions.socket_closed(session_id, time.monotonic(), broken=broken)

    def actions_of(self, session_id: str) -> tuple[int, ActionSpace]:
        """Return how many slots a session has, and their actions; raises RequestError as `check` does."""
        worlds = self._session(session_id).worlds
        return worlds.num_slots, worlds.spec.action_space

    async def step(
        self, session_id: str, number: int, action: NDArray[Any], key: RequestKey, shown: list[int]
    ) -> Message:
        """Advance a session's worlds one tick; in a thread where that may take long."""
        async with self._held(session_id) as (session, use):
            before, began = session.step_number, time.perf_counter()
            if use.slow:
                message = await asyncio.to_thread(session.step, number, action, key, shown)
            else:
                message = session.step(number, action, key, shown)
            if session.step_number != before:  # not a stored answer
                took = time.perf_counter() - began
                use.took(took)
                self._metrics.step(session.worlds.num_worlds, took)
            return message

    async def call(self, session_id: str, use_case: Callable[[Session], Result]) -> Result:
        """Call what may take long, in a thread."""
        async with self._held(session_id) as (session, _):
            return await asyncio.to_thread(use_case, session)

    async def delete(self, session_id: str) -> None:
        """End a session when nothing uses its worlds any more."""
        self._check_open()
        await self._close(self._sessions.delete(session_id, time.monotonic()))

    async def _close(self, session: Session) -> None:
        use = self._uses.pop(session.id, None) or _Use()
        async with use.lock:
            try:
                await asyncio.to_thread(session.worlds.close)
            except Exception as failure:  # an environment may raise anything; the session is gone all the same
                emit(of_services.WorldsNotClosed(), error=failure)

    @asynccontextmanager
    async def _held(self, session_id: str) -> AsyncIterator[tuple[Session, _Use]]:
        """Give a session to one request at a time; one whose environment failed is closed."""
        session = self._session(session_id)
        use = self._uses.setdefault(session_id, _Use())
        session.users += 1
        try:
            async with use.lock:
                yield self._session(session_id), use  # it may have been deleted meanwhile
        finally:
            session.users -= 1
            session.used_at = time.monotonic()
            if session.broken:
                with suppress(RequestError):  # somebody was quicker
                    await self._close(self._sessions.delete(session_id, session.used_at))

    def _session(self, session_id: str) -> Session:
        self._check_open()
        return self._sessions.get(session_id, time.monotonic())

    def _check_open(self) -> None:
        if self._closing:
            raise RequestError("shutting_down", "the service is stopping")

    async def close(self) -> None:
        """Take no more requests, and close every session when what runs in it has ended."""
        self._closing = True
        with suppress(TimeoutError):  # whatever still runs ends with the process
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(*(self._close(session) for session in self._sessions.clear()))

    async def close_unused(self) -> None:
        """Close the sessions that have expired."""
        for session in self._sessions.expire(time.monotonic()):
            await self._close(session)
