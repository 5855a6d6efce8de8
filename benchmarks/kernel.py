"""Agent steps a second of the Snake kernel on one core, observations included, beside the plain rules."""

from __future__ import annotations

import statistics
import time

import numpy as np
from measure import report, table

from rattle.envs.snake.batch import SnakeWorlds
from rattle.envs.snake.reference import SnakeWorld
from rattle.envs.snake.settings import SnakeSettings

WORLDS = 1024
TICKS = 400
REPEATS = 9


def batch_speed(num_snakes: int) -> tuple[float, float]:
    """Return agent steps a second, median and best: living agents only count."""
    worlds = SnakeWorlds(SnakeSettings(num_snakes=num_snakes), WORLDS, seed=1)
    actions = list(np.random.default_rng(0).integers(0, 3, (64, worlds.num_slots)))
    for tick in range(300):  # past the start, where all snakes are young
        worlds.step(actions[tick % 64])
    speeds = []
    for _ in range(REPEATS):
        agents = 0
        took = 0.0
        for tick in range(TICKS):
            agents += int(np.count_nonzero(worlds.active))
            began = time.perf_counter()
            worlds.step(actions[tick % 64])
            took += time.perf_counter() - began
        speeds.append(agents / took)
    return statistics.median(speeds), max(speeds)


def plain_speed(num_snakes: int) -> float:
    """Return agent steps a second of the readable rules, observing included."""
    settings = SnakeSettings(num_snakes=num_snakes)
    rng = np.random.default_rng(0)
    game, agents, began = SnakeWorld(settings, 1), 0, time.perf_counter()
    while time.perf_counter() - began < 1.0:
        agents += sum(snake.alive for snake in game.snakes)
        over = game.step(rng.integers(0, 3, num_snakes).tolist()).over
        if over:
            game = SnakeWorld(settings, 1, episode=game.episode + 1)
        for snake in range(num_snakes):
            game.observe(snake)
    return agents / (time.perf_counter() - began)


def main() -> None:
    """Measure 1, 2, 4 and 8 snakes a world."""
    rows = []
    for num_snakes in (1, 2, 4, 8):
        median, best = batch_speed(num_snakes)
        plain = plain_speed(num_snakes)
        figures = (f"{median / 1e6:.2f} M", f"{best / 1e6:.2f} M", f"{plain / 1e3:.1f} k", f"{median / plain:,.0f}")
        rows.append((str(num_snakes), *figures))
    report(
        "kernel",
        "Snake kernel",
        f"Agent steps a second on one core: {WORLDS} worlds of 15 x 15 with radius 5, uniformly random actions, action "
        f"checks, restarts and observations included; median and best of {REPEATS} times {TICKS} ticks. "
        "Plain: the readable rules in `reference.py`, one world at a time.",
        table(("snakes a world", "median", "best", "plain", "ratio"), rows),
    )


if __name__ == "__main__":
    main()
