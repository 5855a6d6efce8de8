"""What terminal and file writers need of something that should be shown frame by frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rich.text import Text


class ReplayView(Protocol):
    """An episode as pictures: one frame a tick and a closing one."""

    @property
    def frames(self) -> int:
        """The number of frames."""

    @property
    def size(self) -> tuple[int, int]:
        """The terminal columns and lines that a frame takes."""

    def text(self, frame: int) -> Text:
        """Return a frame as coloured text that can also be read without colours."""

    def pixels(self, frame: int) -> NDArray[np.uint8]:
        """Return a frame as palette indices, uint8 (height, width), the same shape for all frames."""
