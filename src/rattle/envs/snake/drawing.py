"""A snake world drawn as text or as pixels, dark where no snake sees."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.snake.settings import SnakeSettings

RENDER_MODES = ("ansi", "rgb_array")
FRAMES_PER_SECOND = 10
HEADS = "^>v<"
Colour = tuple[int, int, int]

_UNSEEN: Colour = (24, 26, 32)
_SEEN: Colour = (58, 62, 74)
_FOOD: Colour = (232, 76, 61)
_SNAKES: tuple[Colour, ...] = (
    (120, 200, 80),
    (80, 160, 230),
    (240, 190, 60),
    (190, 110, 220),
    (70, 200, 190),
    (240, 130, 60),
    (230, 120, 170),
    (170, 170, 180),
)


def check_render_mode(mode: str | None) -> str | None:
    """Return `mode` if worlds can be drawn in it, or None; else raise EnvError."""
    if mode is not None and mode not in RENDER_MODES:
        raise EnvError(f"render_mode {mode!r} is unknown: choose {' or '.join(map(repr, RENDER_MODES))}")
    return mode


def draw(mode: str | None, snapshot: dict[str, Any], settings: SnakeSettings) -> NDArray[np.uint8] | str | None:
    """Return one world as a frame or as text; without a render mode warn and return None, as Gymnasium does."""
    if mode is None:
        gymnasium.logger.warn("render() needs a render mode: make the environment with render_mode='rgb_array'")
        return None
    return draw_text(snapshot, settings) if mode == "ansi" else draw_frame(snapshot, settings)


def draw_text(snapshot: dict[str, Any], settings: SnakeSettings) -> str:
    """Return the world as `height` lines of `width` characters.

    A head is ^ > v <, a body the number of its snake, food *, an empty cell that a snake sees a dot.
    """
    canvas = np.where(_seen(snapshot, settings), ".", " ")
    for x, y in snapshot["food"]:
        canvas[y, x] = "*"
    for number, (body, heading) in enumerate(zip(snapshot["bodies"], snapshot["headings"], strict=True)):
        for x, y in body[::-1]:
            canvas[y, x] = str(number)
        if body:
            canvas[body[0][1], body[0][0]] = HEADS[heading]
    return "\n".join("".join(row) for row in canvas)


def draw_frame(snapshot: dict[str, Any], settings: SnakeSettings, cell_pixels: int = 16) -> NDArray[np.uint8]:
    """Return uint8 (height * cell_pixels, width * cell_pixels, 3); heads are brighter than bodies."""
    seen = _seen(snapshot, settings)
    canvas = np.where(seen[:, :, None], np.array(_SEEN, np.uint8), np.array(_UNSEEN, np.uint8))
    for x, y in snapshot["food"]:
        canvas[y, x] = _FOOD
    for body, colour in zip(snapshot["bodies"], _SNAKES, strict=False):
        for x, y in body[::-1]:
            canvas[y, x] = colour
        if body:
            canvas[body[0][1], body[0][0]] = [(part + 255) // 2 for part in colour]
    return canvas.repeat(cell_pixels, axis=0).repeat(cell_pixels, axis=1)


def _seen(snapshot: dict[str, Any], settings: SnakeSettings) -> NDArray[np.bool_]:
    """Return bool (height, width): the cells within the vision of any living snake, round the edges of the torus."""
    seen = np.zeros((settings.height, settings.width), np.bool_)
    for body in snapshot["bodies"]:
        if body:
            across = _ring_distance(settings.width, body[0][0])
            down = _ring_distance(settings.height, body[0][1])
            seen |= across[None, :] + down[:, None] <= settings.vision_radius
    return seen


def _ring_distance(length: int, place: int) -> NDArray[np.int64]:
    away = np.arange(length) - place
    return np.minimum(away % length, -away % length)
