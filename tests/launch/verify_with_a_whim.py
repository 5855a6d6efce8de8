"""`rattle verify-determinism`, but in the second run a snake moves once as no policy has told it: to be found out."""

from __future__ import annotations

import sys
from pathlib import Path

from rattle.cli import main as rattle
from rattle.clients.agent_protocol import MoveName
from rattle.launch import template
from rattle.services.inference.lockstep_snake import LockstepSnake

RUN, SNAKE, NOT_BEFORE = "run-2", "main-1", 20

begin_template = template.begin


def have_a_whim(note: Path) -> None:
    send = LockstepSnake._send

    async def whimsical(snake: LockstepSnake, move: MoveName) -> bool:
        if snake.assignment.name == SNAKE and snake._tick >= NOT_BEFORE and not note.exists():
            note.write_text(str(snake._tick))
            return await send(snake, "left" if move == "right" else "right")
        return await send(snake, move)

    LockstepSnake._send = whimsical  # type: ignore[method-assign]


def serve() -> None:
    """Be a service, as the command of a fork."""
    _leash, service, config, *_ = sys.argv[1:]
    folder = Path(config).parent
    if service == "inference" and folder.name == RUN:
        have_a_whim(folder / "whim.txt")
    rattle()


def main() -> None:
    template.begin = lambda command: begin_template(serve)
    rattle()
