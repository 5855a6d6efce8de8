"""The event loop in which all snakes of a process live."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import uvloop

from rattle.services.inference.actors import ActorHandle

_Result = TypeVar("_Result")

#: How long snakes may take to let go of their connections at the end, in seconds.
_PATIENCE = 2.0


class SnakeLoop:
    """One event loop, in a thread, in which all snakes of a process live: each waits most of the time."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="snakes", daemon=True)
        self._thread.start()

    def begin(self, life: Coroutine[Any, Any, _Result]) -> Future[_Result]:
        """Begin a life, and return what its end can be waited for with."""
        return asyncio.run_coroutine_threadsafe(life, self._loop)

    def run(self, life: Coroutine[Any, Any, None], control: ActorHandle) -> bool:
        """Wait for a life to end and return True; False when the actor was told to stop before."""
        living = self.begin(life)
        with control.at_end(living.cancel):
            try:
                living.result()
            except CancelledError:
                return False
        return True

    def close(self) -> None:
        """Stop, when all lives have been told to."""
        asyncio.run_coroutine_threadsafe(self._last_rites(), self._loop).result(_PATIENCE * 2)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    async def _last_rites(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=_PATIENCE)
