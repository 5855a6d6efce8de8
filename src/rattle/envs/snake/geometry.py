"""Directions, cell codes and the shape of what a snake sees; shared by the reference rules and the kernel."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class Cell(IntEnum):
    """What an observed cell holds, as the code in an observation."""

    EMPTY = 0
    FOOD = 1
    BODY = 2
    OTHER_HEAD = 3
    OTHER_BODY = 4


class Move(IntEnum):
    """An action: how a snake turns before it moves, relative to its heading."""

    FORWARD = 0
    RIGHT = 1
    LEFT = 2


#: The step (dx, dy) of each heading: north, east, south, west. x grows eastward, y southward.
HEADINGS: tuple[tuple[int, int], ...] = ((0, -1), (1, 0), (0, 1), (-1, 0))

#: What each action adds to a heading: forward, right, left.
TURNS: tuple[int, ...] = (0, 1, 3)


def visible_offsets(radius: int) -> list[tuple[int, int]]:
    """List the (dx, dy) that a snake with its heading up sees, in observation order: by x, then y, head left out."""
    span = range(-radius, radius + 1)
    return [(dx, dy) for dx in span for dy in span if 0 < abs(dx) + abs(dy) <= radius]


def to_world(heading: int, dx: int, dy: int) -> tuple[int, int]:
    """Turn an offset seen with the heading up into an offset on the board."""
    for _ in range(heading):
        dx, dy = -dy, dx
    return dx, dy


def window_offsets(radius: int, row_length: int) -> NDArray[np.uint32]:
    """Return uint32 (4, visible): for each heading, the steps from the window's corner to what is seen, in order."""
    rows = []
    for heading in range(4):
        seen = [to_world(heading, *offset) for offset in visible_offsets(radius)]
        rows.append([(dy + radius) * row_length + dx + radius for dx, dy in seen])
    return np.array(rows, dtype=np.uint32)


def window_corners(width: int, height: int, row_length: int) -> NDArray[np.uint32]:
    """Return uint32 (cells,): where the window around each cell begins on a board padded by the radius."""
    y, x = np.divmod(np.arange(width * height), width)
    return np.asarray(y * row_length + x, dtype=np.uint32)


@lru_cache(maxsize=64)
def all_cells(width: int, height: int) -> tuple[tuple[int, int], ...]:
    """List the (x, y) of a board, row by row."""
    return tuple((x, y) for y in range(height) for x in range(width))


def cells_ahead(width: int, height: int) -> NDArray[np.int32]:
    """Return int32 (4, width * height): for each heading, the cell that lies ahead of each cell of the torus."""
    y, x = np.divmod(np.arange(width * height), width)
    rows = [(y + dy) % height * width + (x + dx) % width for dx, dy in HEADINGS]
    return np.array(rows, dtype=np.int32)


def copies_on_padded_board(width: int, height: int, margin: int) -> NDArray[np.int32]:
    """Return int32 (cells, copies): where each cell stands on the flat padded board, the place inside it first.

    Rows are filled up with repetitions of the first place, so that all cells have equally many.
    """
    row_length = width + 2 * margin
    rows = []
    for cell in range(width * height):
        y, x = divmod(cell, width)
        inside = (y + margin) * row_length + x + margin
        columns = range((x + margin) % width, row_length, width)
        lines = range((y + margin) % height, height + 2 * margin, height)
        rows.append([inside, *(line * row_length + column for line in lines for column in columns)])
    most = max(len(set(row)) for row in rows)
    return np.array([_filled(row, most) for row in rows], dtype=np.int32)


def _filled(places: list[int], length: int) -> list[int]:
    distinct = list(dict.fromkeys(places))
    return distinct + distinct[:1] * (length - len(distinct))
