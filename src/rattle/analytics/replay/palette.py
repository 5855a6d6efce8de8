"""The colours of replays, the same in terminals and pictures: a palette of fewer than 64."""

from __future__ import annotations

from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[int, int, int]

_PAGE: Final[Rgb] = (13, 15, 20)
_WHITE: Final[Rgb] = (255, 255, 255)
_SNAKES: Final[tuple[Rgb, ...]] = (
    (52, 199, 132),
    (90, 169, 255),
    (255, 178, 36),
    (187, 134, 252),
    (79, 209, 224),
    (255, 122, 184),
    (195, 232, 74),
    (176, 184, 196),
)
MAX_SNAKES: Final = len(_SNAKES)


def _mixed(colour: Rgb, other: Rgb, share: float) -> Rgb:
    """Return `colour` with a share of another."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


#: Indices of the palette.
PAGE, FOG, LIT, FOOD_DIM, FOOD, DEAD, EYE, LINE_DIM, LINE = range(9)
#: Shades of writing, from faint to full.
WRITING: Final = range(9, 13)
_FIRST_SNAKE: Final = 13

_INK: Final[Rgb] = (236, 239, 244)

PALETTE: Final[tuple[Rgb, ...]] = (
    _PAGE,
    (25, 28, 36),
    (58, 66, 82),
    (92, 38, 44),
    (255, 93, 93),
    (235, 64, 52),
    (13, 15, 20),
    (58, 66, 82),
    (90, 169, 255),
    *(_mixed(_PAGE, _INK, share) for share in (0.25, 0.5, 0.75, 1.0)),
    *chain.from_iterable(
        (
            _mixed(colour, _PAGE, 0.66),
            colour,
            _mixed(_mixed(colour, _WHITE, 0.45), _PAGE, 0.6),
            _mixed(colour, _WHITE, 0.55),
        )
        for colour in _SNAKES
    ),
)


def snake_colour(snake: int, *, head: bool, lit: bool) -> int:
    """Return the palette index of a part of a snake."""
    return _FIRST_SNAKE + snake % MAX_SNAKES * 4 + 2 * head + lit


def hexadecimal(index: int) -> str:
    """Return a palette entry as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*PALETTE[index])


def as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn palette indices uint8 (height, width) into colours uint8 (height, width, 3)."""
    return np.array(PALETTE, np.uint8)[pixels]
