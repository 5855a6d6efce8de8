"""Text as pixels, with the font that comes with the picture library."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rattle.analytics.replay import palette

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont


def write(pixels: NDArray[np.uint8], text: str, x: int, y: int, size: int, *, faint: bool = False) -> None:
    """Write a line of text into palette pixels with its upper left corner at (x, y); what does not fit is cut off."""
    shades = _shades(text, size)
    height, width = min(shades.shape[0], pixels.shape[0] - y), min(shades.shape[1], pixels.shape[1] - x)
    area = pixels[y : y + height, x : x + width]
    shade = shades[:height, :width]
    if faint:
        shade = (shade + 1) // 2
    area[shade > 0] = palette.WRITING[0] + shade[shade > 0] - 1


def write_heading(pixels: NDArray[np.uint8], status: Sequence[str], title: str) -> None:
    """Write how things stand, in columns that stay where they are, and below it in small what is shown."""
    x = 10
    for part in status:
        write(pixels, part, x, 6, 18)
        x += max(94, width_of(part, 18) + 16)
    write(pixels, title, 10, 30, 12, faint=True)


def width_of(text: str, size: int) -> int:
    """Return how many pixels wide a text is."""
    return int(np.ceil(_font(size).getlength(text)))


@cache
def _font(size: int) -> FreeTypeFont | Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _shades(text: str, size: int) -> NDArray[np.uint8]:
    """Return uint8 (height, width): 0 for paper to `len(palette.WRITING)` for full ink."""
    from PIL import Image, ImageDraw

    picture = Image.new("L", (width_of(text, size) + 1, size + size // 3))
    ImageDraw.Draw(picture).text((0, 0), text, fill=255, font=_font(size))
    levels = len(palette.WRITING)
    return np.asarray((np.asarray(picture, np.uint16) * levels + 127) // 255, np.uint8)
