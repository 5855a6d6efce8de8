"""Gymnasium environments that are slow, that fail, or that fail to close; tests hold and release them."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Held(gymnasium.Env[Any, Any]):
    """Every step waits until the test lets it go on; tells when it has begun and what runs at once."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Discrete(3)
    begun = threading.Event()
    may_go_on = threading.Event()
    running = 0
    most_running = 0
    closed = 0
    closed_while_running = False

    @classmethod
    def hold(cls) -> None:
        """Forget what was."""
        cls.begun.clear()
        cls.may_go_on.clear()
        cls.running = cls.most_running = cls.closed = 0
        cls.closed_while_running = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.ticks = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        cls = type(self)
        cls.running += 1
        cls.most_running = max(cls.most_running, cls.running)
        if action == 2:
            cls.begun.set()
            assert cls.may_go_on.wait(60)
        cls.running -= 1
        self.ticks += 1
        return np.full(1, self.ticks, np.float32), 1.0, False, False, {}

    def close(self) -> None:
        cls = type(self)
        cls.closed += 1
        cls.closed_while_running |= cls.running > 0


class Failing(Held):
    """Action 1 fails, and so does closing when the test says so."""

    stuck = False

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 1:
            raise ZeroDivisionError("the ball is gone")
        return super().step(action)

    def close(self) -> None:
        super().close()
        if type(self).stuck:
            raise OSError("the window is stuck")


class Wayward(Held):
    """Plays no episode twice: what it hands out counts the steps of the process."""

    steps = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        Wayward.steps += 1
        return np.full(1, Wayward.steps, np.float32), 1.0, False, False, {}


gymnasium.register("RattleHeld-v0", entry_point=Held)
gymnasium.register("RattleWayward-v0", entry_point=Wayward)
gymnasium.register("RattleFailing-v0", entry_point=Failing)
