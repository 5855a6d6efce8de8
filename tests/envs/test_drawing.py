"""What a drawn world shows."""

from __future__ import annotations

import numpy as np

from rattle.envs.snake.drawing import draw_frame, draw_text
from rattle.envs.snake.settings import SnakeSettings

SETTINGS = SnakeSettings(width=6, height=5, vision_radius=1, num_snakes=2)
WORLD = {
    "bodies": [[[0, 1], [0, 2], [1, 2]], []],
    "headings": [0, 3],
    "food": [[4, 4]],
}


def test_text_shows_snakes_food_and_what_is_seen() -> None:
    assert draw_text(WORLD, SETTINGS).splitlines() == [
        ".     ",
        "^.   .",
        "00    ",
        "      ",
        "    * ",
    ]


def test_frame_paints_the_same_cells() -> None:
    frame = draw_frame(WORLD, SETTINGS, cell_pixels=3)
    assert frame.shape == (15, 18, 3)
    cells = frame[::3, ::3]
    np.testing.assert_array_equal(frame, cells.repeat(3, 0).repeat(3, 1))
    colours = {tuple(cells[y, x]) for x, y in [(0, 1), (0, 2), (4, 4), (0, 0), (3, 3)]}
    assert len(colours) == 5
    np.testing.assert_array_equal(cells[2, 0], cells[2, 1])
    np.testing.assert_array_equal(cells[0, 0], cells[1, 5])
