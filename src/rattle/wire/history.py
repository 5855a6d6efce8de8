"""What has happened in lockstep as a few bytes (docs/sync-api.md, Hashes): each hash takes in the one before it."""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from rattle.wire.lockstep import HASH_BYTES

#: The hash of nothing yet.
BEGINNING = bytes(HASH_BYTES)
#: Stands for the move of a snake that was placed in this tick.
PLACED = -1

_LINE = Struct("<qqdqB").pack


def extended(before: bytes, content: bytes) -> bytes:
    """Return the hash of a history to which this content is added."""
    return blake2b(before + content, digest_size=HASH_BYTES).digest()


def after_line(
    before: bytes, tick: int, move: int, reward: float, length: int, game_over: bool, codes: NDArray[np.uint8]
) -> bytes:
    """Return the hash of a snake after a line of its stream, the same for who gives it and for who receives it.

    `tick` is the line's; `move` the action (0 to 2) that was taken into it, 0 without one, or PLACED; `codes` uint8
    (cells,) what the snake sees. The history continues over all lives of a snake's id.
    """
    return extended(before, _LINE(tick, move, reward, length, game_over) + codes.tobytes())
