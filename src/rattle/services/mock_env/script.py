"""The fixed script of states that every snake gets: a pure function of the snake's id, the tick and the length."""

from __future__ import annotations

import msgspec

from rattle.envs.snake.geometry import visible_offsets

RADIUS = 5
#: A snake eats in every tick that this divides, but in its last one; the food is seen from three ticks before.
FOOD_EVERY = 4
START_LENGTH = 3
_OFFSETS = sorted([*visible_offsets(RADIUS), (0, 0)])


class ScriptLine(msgspec.Struct):
    """One line of a stream, its fields in the order in which they are written."""

    snake_id: str
    tick: int
    visible_cells: dict[str, str]
    reward: float
    game_over: bool
    datetime: str
    length: int


def line(snake_id: str, tick: int, length: int, datetime: str = "") -> ScriptLine:
    """Return a snake's line of a tick, 0 to `length`; that of tick `length` is the last.

    `length` decides the last line only: a script that is ended early is a script of that length.
    """
    last = tick >= length
    seen = tick - 1 if last else tick
    eats = tick > 0 and tick % FOOD_EVERY == 0
    return ScriptLine(
        snake_id=snake_id,
        tick=tick,
        visible_cells=visible_cells(seen),
        reward=-1.0 if last else float(eats),
        game_over=last,
        datetime=datetime,
        length=body_length(seen),
    )


def body_length(tick: int) -> int:
    """Return how many cells a snake has, the head included."""
    return START_LENGTH + tick // FOOD_EVERY


def food_distance(tick: int) -> int | None:
    """Return how many cells ahead of the head the food lies; None where there is none."""
    return FOOD_EVERY - tick % FOOD_EVERY if tick % FOOD_EVERY else None


def visible_cells(tick: int) -> dict[str, str]:
    """Return what a snake sees: its food ahead, its own body behind and nothing else."""
    cells = {f"{RADIUS + dx},{RADIUS + dy}": "EMPTY" for dx, dy in _OFFSETS}
    distance = food_distance(tick)
    if distance is not None:
        cells[f"{RADIUS},{RADIUS - distance}"] = "FOOD"
    cells[f"{RADIUS},{RADIUS}"] = "HEAD"
    for behind in range(1, min(body_length(tick), RADIUS + 1)):
        cells[f"{RADIUS},{RADIUS + behind}"] = "BODY"
    return cells
