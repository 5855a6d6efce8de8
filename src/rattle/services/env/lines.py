"""The lines of a stream as bytes: what repeats is made once, a line is put together from few pieces."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from itertools import product

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.envs.snake.geometry import Cell, visible_offsets

_GROUP = 3  # cells that are looked up at once: 5**3 ways to fill them
_WEIGHTS: NDArray[np.int64] = len(Cell) ** np.arange(_GROUP - 1, -1, -1)


class CellMaps:
    """Writes what snakes see as the JSON object `visible_cells`, the snake's own head in the middle."""

    def __init__(self, radius: int) -> None:
        names = [f'"{dx + radius},{dy + radius}":' for dx, dy in visible_offsets(radius)]
        head = f'"{radius},{radius}":"HEAD",'
        pieces = [[f'{name}"{cell.name}",' for cell in Cell] for name in names]
        middle = len(pieces) // 2  # as many cells come before the head as after it
        pieces[middle] = [head + piece for piece in pieces[middle]]
        groups = [pieces[first : first + _GROUP] for first in range(0, len(pieces), _GROUP)]
        self._pieces: list[bytes] = []
        starts = []
        for group in groups:
            starts.append(len(self._pieces))
            full = group + [[""] * len(Cell)] * (_GROUP - len(group))
            self._pieces += ["".join(choice).encode() for choice in product(*full)]
        first = starts[-1]  # nothing comes after the last group
        self._pieces[first:] = [piece.rstrip(b",") for piece in self._pieces[first:]]
        self._starts: NDArray[np.int64] = np.array(starts, np.int64)

    def encode(self, codes: NDArray[np.uint8]) -> list[bytes]:
        """Return a JSON object for each row of codes (snakes, cells)."""
        padded = np.zeros((len(codes), len(self._starts) * _GROUP), np.int64)
        padded[:, : codes.shape[1]] = codes
        places = padded.reshape(len(codes), len(self._starts), _GROUP) @ _WEIGHTS + self._starts
        piece = self._pieces.__getitem__
        return [b"{" + b"".join(map(piece, row)) + b"}" for row in places.tolist()]


class LineFormat:
    """Writes the lines of one tick; what they share is written once."""

    def __init__(self, tick: int, now: datetime) -> None:
        self.tick = tick
        self._tick = b'","tick":%d,"visible_cells":' % tick
        stamp = now.isoformat(timespec="microseconds").encode()
        self._living = b',"game_over":false,"datetime":"' + stamp + b'","length":'
        self._over = b',"game_over":true,"datetime":"' + stamp + b'","length":'

    def line(self, snake_id: str, cells: bytes, reward: float, length: int, game_over: bool = False) -> bytes:
        """Return the line of one snake; `cells` is its map from `CellMaps`."""
        ending = self._over if game_over else self._living
        return b'{"snake_id":"%b%b%b,"reward":%b%b%d}\n' % (
            snake_id.encode(),
            self._tick,
            cells,
            _number(reward),
            ending,
            length,
        )


@lru_cache(maxsize=1024)
def _number(value: float) -> bytes:
    return msgspec.json.encode(value)
