"""An episode of any other environment as a view: what was observed, done and earned, over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from rattle.analytics.replay import palette
from rattle.analytics.replay.episodes import Episode
from rattle.analytics.replay.writing import width_of, write, write_heading

if TYPE_CHECKING:
    from rich.text import Text

MOST_OBSERVATIONS: Final = 8
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_COLUMNS: Final = 60
_LABEL: Final = 13
_VALUE: Final = 10

_WIDTH: Final = 640
_ROW: Final = 56
_HEADING: Final = 50
_LEFT, _RIGHT = 110, 100


@dataclass(frozen=True)
class _Strip:
    name: str
    values: NDArray[np.float64]  # (ticks,)

    def level(self) -> NDArray[np.float64]:
        """Return the values scaled to 0..1; a constant lies in the middle."""
        low, high = self.values.min(), self.values.max()
        return (self.values - low) / (high - low) if high > low else np.full_like(self.values, 0.5)


class ChartView:
    """Shows a strip for each number observed and chosen (the first few), and the reward, up to the tick."""

    def __init__(self, episode: Episode, agent: int) -> None:
        self._episode, self._agent = episode, agent
        steps = episode.agents[agent]
        observed = steps.observation[:, :MOST_OBSERVATIONS].astype(np.float64)
        self._hidden = steps.observation.shape[1] - observed.shape[1]
        self._strips = [_Strip(f"observation {i}", column) for i, column in enumerate(observed.T)]
        done = steps.action.astype(np.float64)
        names = ["action"] if done.ndim == 1 else [f"action {i}" for i in range(min(done.shape[1], MOST_OBSERVATIONS))]
        columns = done.reshape(len(done), -1).T
        self._strips += [_Strip(name, column) for name, column in zip(names, columns, strict=False)]
        self._strips.append(_Strip("reward", steps.reward.astype(np.float64)))
        self._ticks = len(steps.tick)
        self._returns = np.concatenate([np.zeros(1), np.cumsum(steps.reward, dtype=np.float64)])
        self._fate = steps.fate

    @property
    def frames(self) -> int:
        """One a tick, and one that says how it ended."""
        return self._ticks + 1

    @property
    def size(self) -> tuple[int, int]:
        """Two lines of writing and one a strip."""
        return max(len(self.title), _LABEL + 2 + _COLUMNS + _VALUE), len(self._strips) + 2

    @property
    def title(self) -> str:
        """What is shown."""
        known = self._episode.summary
        more = f"  ({self._hidden} more observed)" if self._hidden else ""
        if not self._episode.agents[self._agent].observation.shape[1]:
            more = "  (observations as large as these are not recorded)"
        return f"{self._episode.run_id}  episode {known.id}  policy v{known.policy_version}{more}"

    def status(self, frame: int) -> list[str]:
        """Return how the episode stands, in a few words each."""
        status = [f"tick {frame:<4}", f"return {self._returns[frame]:<8.2f}"]
        return status if frame < self._ticks else [*status, self._fate]

    def text(self, frame: int) -> Text:
        """Return title, status and a line of blocks for each strip."""
        from rich.text import Text

        text = Text(no_wrap=True, overflow="crop", end="")
        text.append(f"{self.title}\n", palette.hexadecimal(palette.WRITING[1]))
        text.append("  ".join(self.status(frame)), f"bold {palette.hexadecimal(palette.WRITING[3])}")
        columns = min(_COLUMNS, self._ticks)
        ticks = np.linspace(0, self._ticks - 1, columns).round().astype(int)
        known = int(np.searchsorted(ticks, min(frame, self._ticks - 1), side="right"))
        for strip in self._strips:
            level = strip.level()[ticks]
            blocks = "".join(_BLOCKS[int(value * (len(_BLOCKS) - 1) + 0.5)] for value in level)
            text.append(f"\n{strip.name:<{_LABEL}}  ")
            text.append(blocks[:known], palette.hexadecimal(palette.LINE))
            text.append(" " * (len(blocks) - known))
            text.append(f"{strip.values[min(frame, self._ticks - 1)]:>{_VALUE}.3f}")
        return text

    def pixels(self, frame: int) -> NDArray[np.uint8]:
        """Return the strips below two lines of writing: what has been in bright colour, what will be dim."""
        height = _HEADING + _ROW * len(self._strips) + 10
        pixels = np.full((height + height % 2, _WIDTH), palette.PAGE, np.uint8)
        write_heading(pixels, self.status(frame), self.title)
        now = min(frame, self._ticks - 1)
        for strip, row in zip(self._strips, self._rows(pixels), strict=True):
            write(row, strip.name, 10, _ROW // 2 - 8, 13, faint=True)
            value = f"{strip.values[now]:.3f}"
            write(row, value, _WIDTH - 14 - width_of(value, 13), _ROW // 2 - 8, 13)
            _draw(row[4:-4, _LEFT:-_RIGHT], strip.level(), now)
        return pixels

    def _rows(self, pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        for top in range(_HEADING, _HEADING + _ROW * len(self._strips), _ROW):
            yield pixels[top : top + _ROW]


def _draw(area: NDArray[np.uint8], level: NDArray[np.float64], now: int) -> None:
    """Draw one strip: a line over all ticks, bright up to now, and a mark where it is."""
    from PIL import Image, ImageDraw

    height, width = area.shape
    area[:] = palette.FOG
    picture = Image.fromarray(area)
    draw = ImageDraw.Draw(picture)
    x = 6 + np.arange(len(level)) * (width - 13) / max(1, len(level) - 1)
    y = (height - 6) - level * (height - 12)
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    draw.line(points, fill=palette.LINE_DIM, width=1)
    draw.line(points[: now + 1], fill=palette.LINE, width=2)
    px, py = points[now]
    draw.ellipse((px - 3, py - 3, px + 3, py + 3), fill=palette.WRITING[3])
    area[:] = np.asarray(picture)
