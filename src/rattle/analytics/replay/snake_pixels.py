"""A snake board as pixels: fog, food, and bodies that can be followed with the eye."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.analytics.replay import palette
from rattle.analytics.replay.writing import write_heading

_BOARD_PIXELS: Final = 390  # about: a board's longer side
_CELL_PIXELS: Final = (3, 26)  # the least and the most for a cell's side
_MARGIN: Final = 10
_HEADING_PIXELS: Final = 50
_LEAST_WIDTH: Final = 400  # so that the writing has room
_STEPS: Final = ((0, -1), (1, 0), (0, 1), (-1, 0))  # by heading: north, east, south, west


class SnakeState(msgspec.Struct):
    """A stored state of a snake world; bodies have their head first and are empty for the dead."""

    bodies: list[list[tuple[int, int]]]
    headings: list[int]
    food: list[tuple[int, int]]


class BoardView(Protocol):
    """What a painter asks of boards that should be shown frame by frame."""

    @property
    def title(self) -> str:
        """What is shown."""

    def status(self, frame: int) -> list[str]:
        """Return how the game stands, in a few words each."""

    def state(self, frame: int) -> SnakeState:
        """Return what is on the board."""

    def visible(self, frame: int) -> NDArray[np.bool_]:
        """Return bool (height, width): the cells that are in sight."""

    def colour(self, snake: int, frame: int, *, head: bool, lit: bool) -> int:
        """Return the palette index of a part of a snake."""


class BoardPainter:
    """Paints boards of one size."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.cell = int(np.clip(_BOARD_PIXELS // max(width, height), *_CELL_PIXELS))
        self.gap = 1 if self.cell >= 8 else 0
        self.inset = max(self.gap, self.cell // 7)
        board = width * self.cell, height * self.cell
        self.size = max(board[0] + 2 * _MARGIN, _LEAST_WIDTH), board[1] + _HEADING_PIXELS + _MARGIN
        self.left = (self.size[0] - board[0]) // 2

    def paint(self, view: BoardView, frame: int) -> NDArray[np.uint8]:
        """Return a frame as palette indices, uint8 (height, width)."""
        pixels = np.full((self.size[1] + self.size[1] % 2, self.size[0] + self.size[0] % 2), palette.PAGE, np.uint8)
        write_heading(pixels, view.status(frame), view.title)
        bottom, right = _HEADING_PIXELS + self.height * self.cell, self.left + self.width * self.cell
        board = pixels[_HEADING_PIXELS:bottom, self.left : right]
        lit, state = view.visible(frame), view.state(frame)
        self._paint_ground(board, lit)
        for x, y in state.food:
            self._paint_food(board, x, y, palette.FOOD if lit[y, x] else palette.FOOD_DIM)
        for snake, body in enumerate(state.bodies):
            for place in reversed(range(len(body))):
                x, y = body[place]
                colour = view.colour(snake, frame, head=place == 0, lit=bool(lit[y, x]))
                self._paint_segment(board, body, place, colour)
            if body:
                self._paint_eyes(board, *body[0], state.headings[snake])
        return pixels

    def _paint_ground(self, board: NDArray[np.uint8], lit: NDArray[np.bool_]) -> None:
        ground = np.where(lit, palette.LIT, palette.FOG).astype(np.uint8)
        board[:] = ground.repeat(self.cell, axis=0).repeat(self.cell, axis=1)
        for line in range(self.gap):
            board[line :: self.cell] = palette.PAGE
            board[:, line :: self.cell] = palette.PAGE

    def _paint_food(self, board: NDArray[np.uint8], x: int, y: int, colour: int) -> None:
        away = np.arange(self.cell) - (self.cell - 1 + self.gap) / 2
        disc = away**2 + away[:, None] ** 2 <= (0.34 * self.cell) ** 2
        self._square(board, x, y)[disc] = colour

    def _paint_segment(self, board: NDArray[np.uint8], body: list[tuple[int, int]], place: int, colour: int) -> None:
        """Paint one cell of a body, open towards its neighbours in the body."""
        square, low = self._square(board, *body[place]), self.inset + self.gap
        high = self.cell - self.inset
        square[low:high, low:high] = colour
        for other in (place - 1, place + 1):
            if not 0 <= other < len(body):
                continue
            step = self._step(body[place], body[other])
            if step == (1, 0):
                square[low:high, high:] = colour
            elif step == (-1, 0):
                square[low:high, :low] = colour
            elif step == (0, 1):
                square[high:, low:high] = colour
            elif step == (0, -1):
                square[:low, low:high] = colour

    def _paint_eyes(self, board: NDArray[np.uint8], x: int, y: int, heading: int) -> None:
        eye, middle = max(1, self.cell // 6), self.cell // 2
        dx, dy = _STEPS[heading]
        for side in (-1, 1):
            across = middle + dx * (self.cell // 7) - side * dy * (self.cell // 5)
            down = middle + dy * (self.cell // 7) + side * dx * (self.cell // 5)
            square = self._square(board, x, y)
            square[down - eye // 2 :, across - eye // 2 :][:eye, :eye] = palette.EYE

    def _square(self, board: NDArray[np.uint8], x: int, y: int) -> NDArray[np.uint8]:
        return board[y * self.cell : (y + 1) * self.cell, x * self.cell : (x + 1) * self.cell]

    def _step(self, here: tuple[int, int], there: tuple[int, int]) -> tuple[int, int]:
        """Return the step from a cell to its neighbour, over the edge where that is shorter."""
        dx = (there[0] - here[0] + self.width // 2) % self.width - self.width // 2
        dy = (there[1] - here[1] + self.height // 2) % self.height - self.height // 2
        return dx, dy
