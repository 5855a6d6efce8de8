"""A server process with a hundred snakes: no line is lost, none is out of order, memory stays as it is."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SNAKES = 100
SERVER = """
from rattle.envs.snake.settings import SnakeSettings
from rattle.services.env.agent_routes import AgentFace
from rattle.services.utils.guard import Guard
from rattle.services.utils.serving import serve
from rattle.services.utils.sockets import listen
from rattle.settings.services import EnvServiceSection, SecuritySection

settings = EnvServiceSection(snakes=100, fps=50)
face = AgentFace(settings, SnakeSettings(width=64, height=64, food=50), 1)
guard = Guard("127.0.0.1", SecuritySection())
serve(face, "agent API", listen("127.0.0.1", 0), guard, settings.max_connections, {})
"""


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        yield process, int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        process.kill()


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


class Player:
    """One snake on a connection of its own: follows every line, joins again when it dies."""

    def __init__(self, name: str) -> None:
        self.request = f"GET /snake/{name}?lines=all HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self.lines = 0
        self.lives = 0
        self.goodbye = False

    async def play(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while await self._live(reader, writer):
                pass
        finally:
            writer.close()

    async def _live(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Follow one life; False when the server has said goodbye."""
        writer.write(self.request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 503 " in head:
            return False
        assert b" 200 " in head, head
        self.lives += 1
        tick = None
        while length := int(await reader.readuntil(b"\r\n"), 16):
            for text in (await reader.readexactly(length + 2)).splitlines():
                if text:
                    line = json.loads(text)
                    assert tick is None or line["tick"] == tick + 1
                    assert not self.goodbye
                    tick = line["tick"]
                    self.goodbye = line["game_over"]
                    self.lines += 1
        assert await reader.readexactly(2) == b"\r\n"
        assert self.goodbye  # a stream ends with the line that says so
        self.goodbye = False
        return True


@pytest.mark.integration
def test_a_hundred_snakes_lose_no_line_and_the_memory_stays(server: tuple[subprocess.Popen[str], int]) -> None:
    process, port = server

    async def scene() -> tuple[list[Player], list[int]]:
        players = [Player(f"snake-{number}") for number in range(SNAKES)]
        tasks = [asyncio.create_task(player.play(port)) for player in players]
        memory = []
        for lines in (20_000, 40_000):
            while sum(player.lines for player in players) < lines:
                assert not any(task.done() for task in tasks)
                await asyncio.sleep(0.05)
            memory.append(resident_bytes(process.pid))
        process.send_signal(signal.SIGTERM)
        ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        # After the last line the connection closes, which may meet the next request or the answer to it.
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, asyncio.IncompleteReadError | ConnectionError):
                raise end
        return players, memory

    players, memory = asyncio.run(scene())
    assert process.wait(60) == 0
    assert all(player.lives > 0 and not player.goodbye for player in players)
    assert sum(player.lives for player in players) > SNAKES
    assert memory[1] - memory[0] < 8 * 2**20
