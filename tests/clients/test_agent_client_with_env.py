"""The agent's client plays real games on `rattle env`, and observes what a policy would observe in process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from rattle.clients.agent_client import MOVES, AgentClient, LinkTimeouts
from rattle.envs.snake.geometry import Cell, to_world, visible_offsets

HEADINGS = ["north", "east", "south", "west"]
RADIUS = 3
SETTINGS = ["env.num_snakes=2", "env.width=9", "env.height=9", "env.food=9", f"env.vision_radius={RADIUS}"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An Env service whose world stands still until both snakes have moved."""
    settings = [part for setting in [*SETTINGS, "env_service.turn_seconds=60"] for part in ("--set", setting)]
    command = [sys.executable, "-m", "rattle.cli", "env", "--port", "0", "--clock", "turns", "--seed", "3", *settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.communicate()


def seen_on_the_board(world: dict[str, Any], name: str) -> list[int]:
    """Return the codes of what a snake sees, from the whole world and the rules of the batch worlds."""
    snake = world["status"][name]
    x, y = snake["head"]
    codes = []
    for offset in visible_offsets(RADIUS):
        dx, dy = to_world(HEADINGS.index(snake["heading"]), *offset)
        (cell,) = world["grid"].get(f"{(x + dx) % 9},{(y + dy) % 9}", [{"type": "EMPTY", "snake_id": name}])
        other = "OTHER_" if cell["snake_id"] not in (name, None) else ""
        codes.append(int(Cell[other + cell["type"]]))
    return codes


def test_two_snakes_observe_what_the_batch_worlds_would_show_them(url: str) -> None:
    draw = Random(1)  # noqa: S311 - moves need no secrecy
    codes: set[int] = set()
    ticks = 0
    with AgentClient(url, "anna", LinkTimeouts(line=30)) as anna, AgentClient(url, "ben", LinkTimeouts(line=30)) as ben:
        for _ in range(30):
            games = {client: client.states("all") for client in (anna, ben)}
            for game in games.values():
                next(game)  # Anna's first line may come before Ben is there: not compared
            for client in games:
                client.move("forward")
            while games:
                states = {client: next(game) for client, game in games.items()}
                world = anna.state()
                for client, state in states.items():
                    if state.game_over:
                        assert list(games.pop(client)) == []
                        continue
                    assert state.tick == world["tick"]
                    assert state.observation().tolist() == seen_on_the_board(world, client.snake_id)
                    codes.update(state.observation().tolist())
                for client in games:
                    assert not client.move(draw.choice(MOVES))
                ticks += 1
    assert codes == set(map(int, Cell)), "everything has been seen"
    assert ticks > 100
