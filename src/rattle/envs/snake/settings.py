"""The settings of a snake world."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from rattle.envs.validation import StrictSettings

START_LENGTH = 3
MAX_SNAKES = 8
#: A placed snake rules out at most this many of the 4 * width * height ways to place the next one:
#: 4 headings x (4 cells it needs free x 3 ways to cover one of them + 3 cells that the new one may not face).
_WAYS_RULED_OUT_BY_A_SNAKE = 60


class Rewards(StrictSettings):
    """reward = alive * survived + eat_food * ate + game_over * died, every tick and for every snake."""

    alive: float = Field(0.0, description="Reward for a tick survived.")
    eat_food: float = Field(1.0, description="Reward for food eaten.")
    game_over: float = Field(-1.0, description="Reward for dying.")


class SnakeSettings(StrictSettings):
    """One snake world: a torus of cells, the snakes on it, their food and how far they see."""

    width: int = Field(15, ge=4, le=128, description="Cells from west to east; the edges are joined.")
    height: int = Field(15, ge=4, le=128, description="Cells from north to south; the edges are joined.")
    num_snakes: int = Field(1, ge=1, le=MAX_SNAKES, description="Snakes in a world.")
    food: int = Field(1, ge=1, description="Food items on the board at any time.")
    vision_radius: int = Field(
        5, ge=1, le=32, description="A snake sees the cells within this L1 distance of its head."
    )
    max_steps_without_food: int = Field(
        100, ge=0, description="Ticks without food after which a snake starves; 0: never."
    )
    max_steps: int = Field(0, ge=0, description="Ticks after which a world is truncated; 0: never.")
    ends_when: Literal["all", "any"] = Field(
        "all", description="A world ends when all its snakes are dead, or when any is."
    )
    rewards: Rewards = Field(default_factory=Rewards, description="What a tick pays.")

    @model_validator(mode="after")
    def _everything_finds_room(self) -> Self:
        cells = self.width * self.height
        if 4 * cells <= _WAYS_RULED_OUT_BY_A_SNAKE * (self.num_snakes - 1):
            raise ValueError(
                f"a board of {self.width} x {self.height} is too small for {self.num_snakes} snakes: "
                f"it needs more than {15 * (self.num_snakes - 1)} cells"
            )
        room = cells - START_LENGTH * self.num_snakes
        if self.food > room:
            raise ValueError(
                f"food {self.food} does not fit: a board of {self.width} x {self.height} "
                f"with {self.num_snakes} snakes has {room} free cells"
            )
        return self
