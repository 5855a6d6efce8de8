"""One agent over the agent API (docs/env-api.md), with and without asyncio.

A snake that goes for the food that it sees ahead, against `rattle mock-env`:

```python
from rattle.clients.agent_client import AgentClient

total = 0.0
with AgentClient("http://127.0.0.1:5000", "anna") as client:
    for state in client.states():
        total += state.reward
        if state.game_over:
            break
        foods = [key for key, name in state.visible_cells.items() if name == "FOOD"]
        heads = [key for key, name in state.visible_cells.items() if name == "HEAD"]
        columns = [int(key.split(",")[0]) for key in heads + foods]
        if not foods or columns[0] == columns[1]:
            client.move("forward")
        else:
            client.move("left" if columns[1] < columns[0] else "right")
print(f"anna lived for {state.tick} ticks and collected {total}")
```

A policy of the batch worlds plays through it too: `state.observation()` is what it observes, `MOVES[action]` its move.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from types import TracebackType
from typing import Any, Self

from rattle.clients.agent_link import AsyncLink, AsyncStream, Link, LinkTimeouts
from rattle.clients.agent_protocol import (
    MOVES,
    AgentState,
    GameResetAnswer,
    Health,
    Lines,
    MoveAnswer,
    MoveName,
    SnakeLost,
    StreamBroken,
    check_snake_id,
    observation,
    read_about,
)
from rattle.clients.errors import BadAnswer, NoAnswer, NotSent

__all__ = [
    "MOVES",
    "AgentClient",
    "AgentState",
    "AsyncAgentClient",
    "AsyncStream",
    "BadAnswer",
    "Health",
    "LinkTimeouts",
    "NoAnswer",
    "NotSent",
    "SnakeLost",
    "StreamBroken",
    "observation",
]


class AgentClient:
    """Plays one agent without asyncio; use it in a `with` statement, or call `close`.

    Every method raises a ClientError: Refused with the server's `status`, `code` and `field`; NotSent,
    NoAnswer or ConnectionBroken when there was no answer; BadAnswer for one that the agent API does not allow.
    """

    def __init__(self, url: str, snake_id: str, limits: LinkTimeouts | None = None) -> None:
        self.snake_id = check_snake_id(snake_id)
        self._path = f"/snake/{snake_id}"
        self._link = Link(url, limits or LinkTimeouts())

    def states(self, lines: Lines = "newest") -> Generator[AgentState, None, None]:
        """Join, if the snake is not there, and yield its states until the one with `game_over`.

        With lines="all" a state for every tick, however slow the reader is. A stream that breaks off is opened again
        and continues while the snake lives; raises SnakeLost when it does not.
        """
        return self._link.states(self.snake_id, lines)

    def move(self, move: MoveName) -> bool:
        """Turn or go straight at the next tick; return whether the snake is dead."""
        return read_about(self.snake_id, self._link.ask("POST", f"{self._path}/move", MoveAnswer, {"move": move}))

    def reset_snake(self) -> None:
        """End this snake's life and give it a new one; its stream ends."""
        read_about(self.snake_id, self._link.ask("POST", f"{self._path}/reset", MoveAnswer, {}))

    def reset(self, seed: int | None = None) -> int:
        """End the game for every snake and begin the next; return its seed."""
        return self._link.ask("POST", "/reset", GameResetAnswer, {} if seed is None else {"seed": seed}).seed

    def state(self) -> dict[str, Any]:
        """Return the whole world."""
        return self._link.ask("GET", "/state", dict[str, Any])

    def health(self) -> Health:
        """Return what the server says of itself."""
        return self._link.ask("GET", "/", Health)

    def close(self) -> None:
        """Close all connections."""
        self._link.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncAgentClient:
    """Plays one agent with asyncio; use it in an `async with` statement, or await `close`. See AgentClient."""

    def __init__(self, url: str, snake_id: str, limits: LinkTimeouts | None = None) -> None:
        self.snake_id = check_snake_id(snake_id)
        self._path = f"/snake/{snake_id}"
        self._link = AsyncLink(url, limits or LinkTimeouts())

    def states(self, lines: Lines = "newest") -> AsyncGenerator[AgentState, None]:
        """Join, if the snake is not there, and yield its states until the one with `game_over`."""
        return self._link.states(self.snake_id, lines)

    async def follow(self, lines: Lines = "newest") -> AsyncStream:
        """Join, if the snake is not there, and return the stream of its states as soon as the server has answered.

        `states` waits for the first line, too. Its `next_state` raises a ClientError when it breaks off; the next call
        opens it again. To be closed with `aclose`.
        """
        return await self._link.follow(self.snake_id, lines)

    async def move(self, move: MoveName) -> bool:
        """Turn or go straight at the next tick; return whether the snake is dead."""
        return read_about(self.snake_id, await self._link.ask("POST", f"{self._path}/move", MoveAnswer, {"move": move}))

    async def reset_snake(self) -> None:
        """End this snake's life and give it a new one; its stream ends."""
        read_about(self.snake_id, await self._link.ask("POST", f"{self._path}/reset", MoveAnswer, {}))

    async def reset(self, seed: int | None = None) -> int:
        """End the game for every snake and begin the next; return its seed."""
        return (await self._link.ask("POST", "/reset", GameResetAnswer, {} if seed is None else {"seed": seed})).seed

    async def state(self) -> dict[str, Any]:
        """Return the whole world."""
        return await self._link.ask("GET", "/state", dict[str, Any])

    async def health(self) -> Health:
        """Return what the server says of itself."""
        return await self._link.ask("GET", "/", Health)

    async def close(self) -> None:
        """Close all connections."""
        await self._link.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
