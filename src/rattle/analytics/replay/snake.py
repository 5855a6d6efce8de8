"""An episode of snakes as a view: the board under the fog of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.replay import palette
from rattle.analytics.replay.episodes import Episode
from rattle.analytics.replay.snake_pixels import BoardPainter, SnakeState

if TYPE_CHECKING:
    from rich.text import Text

#: What a configuration that leaves these out means.
DEFAULTS: Final[Mapping[str, int]] = MappingProxyType({"width": 15, "height": 15, "vision_radius": 5})
_HEADS: Final = "^>v<"  # by heading: north, east, south, west


class _Cell(NamedTuple):
    letter: str
    ink: int
    ground: int


class SnakeView:
    """Shows what one snake sees brightly, and the rest of the board dimly."""

    def __init__(self, episode: Episode, agent: int) -> None:
        self.episode = episode
        self.agent = agent
        self.width, self.height, self.radius = (int(episode.env.get(name, DEFAULTS[name])) for name in DEFAULTS)
        self._returns = episode.returns(agent)
        self._last_tick = int(episode.agents[agent].tick[-1])
        self._states = [self._checked(state) for state in episode.states]
        lengths = [len(state.bodies[agent]) for state in self._states[: self._last_tick + 1]]
        self._grown = [length - lengths[0] for length in lengths]

    @property
    def frames(self) -> int:
        """One a tick, and one that says how it ended."""
        return len(self._states) + 1

    @property
    def size(self) -> tuple[int, int]:
        """Two columns a cell, and two lines of writing."""
        return max(2 * self.width, len(self.title), len("  ".join(self.status(self.frames - 1)))), self.height + 2

    @property
    def title(self) -> str:
        """What is shown."""
        return (
            f"{self.episode.run_id}  episode {self.episode.summary.id}  policy v{self.episode.summary.policy_version}"
        )

    def status(self, frame: int) -> list[str]:
        """Return how the game stands for the snake, in a few words each."""
        food = self._grown[min(frame, self._last_tick)]
        status = [f"tick {frame:<4}", f"food {food:<3}", f"return {self._returns[frame]:<7.2f}"]
        if frame > self._last_tick:
            fate = self.episode.agents[self.agent].fate
            status.append("died" if fate == "terminated" else fate)
        return status

    def state(self, frame: int) -> SnakeState:
        """Return the world before a tick; the closing frame shows the last one again."""
        return self._states[min(frame, len(self._states) - 1)]

    def is_death(self, frame: int) -> bool:
        """Whether the snake has just died and is shown as it was before."""
        return self.episode.agents[self.agent].terminated and frame == self._last_tick + 1 == len(self._states)

    def visible(self, frame: int) -> NDArray[np.bool_]:
        """Return bool (height, width): the cells within the L1 distance that the snake sees, over the edges too."""
        body = self.state(frame).bodies[self.agent]
        if not body:
            return np.zeros((self.height, self.width), np.bool_)
        x, y = body[0]
        across, down = np.abs(np.arange(self.width) - x), np.abs(np.arange(self.height) - y)
        across, down = np.minimum(across, self.width - across), np.minimum(down, self.height - down)
        return np.asarray(across + down[:, None] <= self.radius)

    def text(self, frame: int) -> Text:
        """Return title, status and the board with two columns a cell.

        Letters say it too: ^ > v < heads, a number for a body's snake, * food, . an empty cell in sight.
        """
        from rich.text import Text

        text = Text(no_wrap=True, overflow="crop", end="")
        text.append(f"{self.title}\n", palette.hexadecimal(palette.WRITING[1]))
        text.append("  ".join(self.status(frame)), f"bold {palette.hexadecimal(palette.WRITING[3])}")
        for row in self._cells(frame):
            text.append("\n")
            for (ink, ground), cells in groupby(row, itemgetter(1, 2)):
                style = f"{palette.hexadecimal(ink)} on {palette.hexadecimal(ground)}"
                text.append("".join(f"{cell.letter} " for cell in cells), style)
        return text

    def pixels(self, frame: int) -> NDArray[np.uint8]:
        """Return the board below two lines of writing."""
        return self._painter.paint(self, frame)

    def _cells(self, frame: int) -> list[list[_Cell]]:
        """Return each cell as it looks in a terminal: blocks of colour, on which only heads can be read."""
        lit, state = self.visible(frame), self.state(frame)
        empty = (_Cell(" ", palette.FOG, palette.FOG), _Cell(".", palette.LIT, palette.LIT))
        rows = [[empty[int(seen)] for seen in row] for row in lit]
        for x, y in state.food:
            colour = palette.FOOD if lit[y, x] else palette.FOOD_DIM
            rows[y][x] = _Cell("*", colour, colour)
        for snake, body in enumerate(state.bodies):
            for place, (x, y) in enumerate(body):
                colour = self.colour(snake, frame, head=place == 0, lit=bool(lit[y, x]))
                letter = _HEADS[state.headings[snake]] if place == 0 else str(snake)
                rows[y][x] = _Cell(letter, palette.EYE if place == 0 else colour, colour)
        return rows

    def colour(self, snake: int, frame: int, *, head: bool, lit: bool) -> int:
        """Return the palette index of a part of a snake."""
        if head and snake == self.agent and self.is_death(frame):
            return palette.DEAD
        return palette.snake_colour(snake, head=head, lit=lit)

    def _checked(self, state: Mapping[str, object]) -> SnakeState:
        """Return a stored state as a type; raises AnalyticsError where it does not fit the board."""
        try:
            known = msgspec.convert(state, SnakeState)
        except msgspec.ValidationError as error:
            raise AnalyticsError(f"episode {self.episode.summary.id} is damaged: a state has {error}") from None
        cells = [cell for body in [*known.bodies, known.food] for cell in body]
        if len(known.bodies) <= self.agent or any(not (0 <= x < self.width and 0 <= y < self.height) for x, y in cells):
            raise AnalyticsError(
                f"episode {self.episode.summary.id} was not played on the {self.width} x {self.height} board "
                "that the run's config.yaml describes"
            )
        return known

    @cached_property
    def _painter(self) -> BoardPainter:
        return BoardPainter(self.width, self.height)
