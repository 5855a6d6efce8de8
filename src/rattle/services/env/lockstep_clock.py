"""The agent API's world as a member of a lockstep run (docs/sync-api.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from rattle.clients.lockstep_member import LockstepMember, MemberAnswer, MemberSettings, Work
from rattle.events import emit, of_lockstep
from rattle.services.env.lockstep_game import LockstepGame
from rattle.settings.services import SyncSection
from rattle.wire.lockstep import MAX_HASHES, RUN_OVER, Role


class LockstepClock:
    """Ticks when the Sync service says so, and tells it the result."""

    def __init__(
        self,
        game: LockstepGame,
        sync: SyncSection,
        key: bytes | None,
        refused: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """Prepare; `refused` is told why this member is led no more though the run continues.

        Raises ClientError for an address that is none.
        """
        self._refused = refused
        self.name = sync.name or "env"
        self.tick = 0  # the last that was stepped, as the Sync service counts
        settings = MemberSettings(sync.address, key, sync.loss, sync.delay_seconds)
        self.member = LockstepMember(settings, self.name, Role.ENVIRONMENT, self._step, self._end)
        self._game = game
        self._advance: Callable[[], None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    def start(self, tick: Callable[[], None]) -> None:
        """Begin to join the run, in a running event loop."""
        self._advance = tick
        self.member.start()

    def changed(self) -> None:
        """Nothing in the game moves this clock."""

    async def stop(self) -> None:
        """Say goodbye; no tick follows."""
        self._advance = None
        await self.member.leave()

    def history(self) -> dict[str, Any]:
        """Return what `GET /v1/history` says."""
        snakes = {snake_id: history.hex() for snake_id, history in self._game.snake_histories.items()}
        return {"tick": self.tick, "world": self._game.world_history.hex(), "snakes": snakes}

    def _step(self, work: Work) -> None:
        if self._advance is None:
            return
        self.tick = work.tick
        try:
            self._advance()
            answer = MemberAnswer(self._hashes())
        except Exception as error:  # an answer would be a lie, and without one all others would wait forever
            emit(of_lockstep.MemberCannotAct(member=self.name, tick=work.tick), error=error)
            self._leaving = asyncio.get_running_loop().create_task(self.stop())
        else:
            self.member.finish(answer)

    def _hashes(self) -> dict[str, bytes]:
        """Return the hash of the world, and those of as many snakes as an answer may have."""
        hashes = {self.name: self._game.world_history}
        for snake_id in sorted(self._game.snake_histories)[:MAX_HASHES]:
            hashes.setdefault(snake_id, self._game.snake_histories[snake_id])
        return hashes

    def _end(self, reason: str) -> None:
        if reason == RUN_OVER:
            emit(of_lockstep.LockstepOver(member=self.name, reason=reason))
        else:
            left = of_lockstep.LockstepLeft(member=self.name, reason=reason)
            emit(left)
            self._refused(str(left))
