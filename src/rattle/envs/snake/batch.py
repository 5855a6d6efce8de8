"""A batch of snake worlds behind the vector protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rattle.envs.errors import EnvError
from rattle.envs.seeds import check_seed, split_seed
from rattle.envs.snake import kernel
from rattle.envs.snake.geometry import (
    Cell,
    cells_ahead,
    copies_on_padded_board,
    visible_offsets,
    window_corners,
    window_offsets,
)
from rattle.envs.snake.settings import MAX_SNAKES, SnakeSettings
from rattle.envs.snake.stored import check_arrays, check_worlds
from rattle.envs.vector import EnvironmentSpec, check_actions
from rattle.samples.spaces import CodeSpace, DiscreteSpace


class SnakeWorlds:
    """W snake worlds in compiled code; implements `rattle.envs.vector.VectorWorlds`.

    World i of a seed plays the same games in any batch: `first_world` gives the number of the first world here.
    """

    def __init__(
        self, settings: SnakeSettings | None = None, num_worlds: int = 1, seed: int = 0, first_world: int = 0
    ) -> None:
        if num_worlds < 1 or first_world < 0 or first_world + num_worlds > 2**32:
            raise EnvError(
                f"cannot hold worlds {first_world} to {first_world + num_worlds - 1}: need 1 to 2**32 worlds"
            )
        self.settings = settings = settings or SnakeSettings()
        self.num_worlds = num_worlds
        self.num_slots = slots = num_worlds * settings.num_snakes
        self.first_world = first_world
        self.seed = check_seed(seed)
        cells = len(visible_offsets(settings.vision_radius))
        self.spec = EnvironmentSpec(
            id="snake",
            settings=settings.model_dump(),
            observation_space=CodeSpace(cells=cells, codes=3 if settings.num_snakes == 1 else len(Cell)),
            action_space=DiscreteSpace(n=3),
            agents_per_world=settings.num_snakes,
            metrics=("food",),
        )

        margin = settings.vision_radius
        row_length = settings.width + 2 * margin
        self._worlds = kernel.BoardState(
            world=np.zeros(num_worlds, kernel.WORLD_DTYPE),
            agent=np.zeros(slots, kernel.AGENT_DTYPE),
            board=np.zeros((num_worlds, row_length * (settings.height + 2 * margin)), np.uint8),
            ring=np.zeros((slots, settings.width * settings.height), np.uint16),
        )
        self._outputs = kernel.Outputs(
            observation=np.zeros((slots, cells), np.uint8),
            reward=np.zeros(slots, np.float32),
            terminated=np.zeros(slots, np.bool_),
            truncated=np.zeros(slots, np.bool_),
            active=np.ones(slots, np.bool_),
            final_observation=np.zeros((slots, cells), np.uint8),
            final_food=np.zeros(slots, np.int32),
        )
        self._tables = kernel.Tables(
            ahead=cells_ahead(settings.width, settings.height),
            copies=copies_on_padded_board(settings.width, settings.height, margin),
            corner=window_corners(settings.width, settings.height, row_length),
            offsets=window_offsets(margin, row_length),
            seen_as=_seen_as(settings.num_snakes),
        )
        self._rules = self._make_rules()
        self._action = self.spec.action_space.zeros(slots)

        self.observation = self._outputs.observation
        self.reward = self._outputs.reward
        self.terminated = self._outputs.terminated
        self.truncated = self._outputs.truncated
        self.active = self._outputs.active
        self.final_observation = self._outputs.final_observation
        self.final_metrics: Mapping[str, NDArray[np.int32]] = {"food": self._outputs.final_food}
        self.metrics: Mapping[str, NDArray[np.int32]] = {"food": self._worlds.agent["food_eaten"]}
        self.episode: NDArray[np.uint32] = self._worlds.world["episode"]
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        """Start episode 0 of `seed` in every world, or with None the next episode of the current seed."""
        if seed is None:
            self.episode += np.uint32(1)
        else:
            self.seed = check_seed(seed)
            self._rules = self._make_rules()
            self.episode[:] = 0
        for array in (self.reward, self.terminated, self.truncated, self._outputs.final_food):
            array[:] = 0
        self.active[:] = True
        kernel.start(self._worlds, self._outputs, self._rules, self._tables)

    def step(self, action: NDArray[np.integer[Any]]) -> None:
        """Advance every world one tick; `action` holds 0 forward, 1 right, 2 left in shape (B,)."""
        check_actions(action, self.num_slots, self.spec.action_space)
        self._action[:] = action  # as it comes, the kernel would be compiled again for every dtype and layout
        kernel.step(self._worlds, self._action, self._outputs, self._rules, self._tables)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of all that decides what follows, as plain arrays."""
        return {
            "seed": np.array([self.seed], np.uint64),
            "first_world": np.array([self.first_world], np.uint64),
            "active": self.active.copy(),
            **{name: array.view(np.uint8).copy() for name, array in self._worlds._asdict().items()},
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue exactly where `state` was taken.

        Raises EnvError when it is of other worlds or damaged, and leaves everything as it was.
        """
        check_arrays(state, self.state())
        stored = kernel.BoardState(
            *(np.ascontiguousarray(state[name]).view(array.dtype) for name, array in self._worlds._asdict().items())
        )
        check_worlds(stored, state["active"], self._rules, self._tables.copies)
        self.seed = int(state["seed"][0])
        self._rules = self._make_rules()
        for name, array in self._worlds._asdict().items():
            array[:] = getattr(stored, name)
        self.active[:] = state["active"]
        kernel.observe(self._worlds, self._outputs, self._rules, self._tables)

    def snapshot(self, world: int) -> dict[str, Any]:
        """Return one world as it stands: bodies (head first, empty when dead) and food as lists of [x, y]."""
        width, margin = self.settings.width, self.settings.vision_radius
        agents = range(world * self.settings.num_snakes, (world + 1) * self.settings.num_snakes)
        board = self._worlds.board[world].reshape(self.settings.height + 2 * margin, width + 2 * margin)
        inner = board[margin : margin + self.settings.height, margin : margin + width]
        return {
            "bodies": [self._body(slot) for slot in agents],
            "headings": [int(self._worlds.agent[slot]["heading"]) for slot in agents],
            "food": [[int(x), int(y)] for y, x in np.argwhere(inner == kernel.FOOD)],
        }

    def close(self) -> None:
        """Nothing to free: the arrays go with the object."""

    def _body(self, slot: int) -> list[list[int]]:
        agent = self._worlds.agent[slot]
        if not agent["alive"]:
            return []
        places = (int(agent["ring_head"]) - np.arange(int(agent["length"]))) % self._worlds.ring.shape[1]
        cells = self._worlds.ring[slot][places]
        return [[int(cell) % self.settings.width, int(cell) // self.settings.width] for cell in cells]

    def _make_rules(self) -> kernel.Rules:
        settings = self.settings
        key_low, key_high = split_seed(self.seed)
        return kernel.Rules(
            cells=settings.width * settings.height,
            num_snakes=settings.num_snakes,
            food=settings.food,
            starve_after=settings.max_steps_without_food,
            max_steps=settings.max_steps,
            ends_with_any=settings.ends_when == "any",
            reward_alive=settings.rewards.alive,
            reward_food=settings.rewards.eat_food,
            reward_death=settings.rewards.game_over,
            key_low=np.uint64(key_low),
            key_high=np.uint64(key_high),
            first_world=np.uint64(self.first_world),
        )


def _seen_as(num_snakes: int) -> NDArray[np.uint8]:
    """Return uint8 (viewers, board codes): what each board code is to each viewer."""
    table = np.zeros((num_snakes, kernel.FIRST_BODY + 2 * MAX_SNAKES), np.uint8)
    table[:, kernel.FOOD] = Cell.FOOD
    for viewer in range(num_snakes):
        for snake in range(num_snakes):
            body = kernel.FIRST_BODY + 2 * snake
            mine = snake == viewer
            table[viewer, body] = Cell.BODY if mine else Cell.OTHER_BODY
            table[viewer, body + 1] = Cell.BODY if mine else Cell.OTHER_HEAD
    return table
