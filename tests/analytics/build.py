"""Small run directories, built with the writers that real runs use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from rattle.analytics.run_directory import RunDirectory, list_runs
from rattle.analytics.steps import StepsWriter, as_episode, encode_state
from rattle.analytics.store import create_tables, open_store
from rattle.analytics.store.load import load_run
from rattle.analytics.table_writer import TableWriter
from rattle.analytics.writer import write_atomically
from rattle.envs.snake.reference import SnakeWorld
from rattle.envs.snake.settings import SnakeSettings

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
WRITER = "train"


def make_run(
    root: Path, name: str = "20260102-snake-1", *, env: Mapping[str, Any] | None = None, **known: Any
) -> RunDirectory:
    """Begin a run directory; `known` replaces columns of its row of `runs`."""
    run = RunDirectory(root / name)
    run.path.mkdir(parents=True)
    settings = {"id": "snake", **SnakeSettings().model_dump()} if env is None else env
    run.config.write_text(yaml.safe_dump({"name": "snake", "seed": 1, "env": dict(settings)}))
    row = {
        "run_id": name,
        "experiment": "snake",
        "status": "finished",
        "environment": "snake",
        "algorithm": "a2c",
        "seed": 1,
        "started": START,
        "ended": START + timedelta(minutes=1),
        "seconds": 60.0,
        "env_steps": 3_500_000,
        "updates": 400,
        "episodes": 9000,
        "env_steps_per_second": 58333.3,
        "mean_return": 38.25,
        "mean_episode_length": 411.5,
        "policy_sha256": "ab" * 32,
        "rattle_version": "0.1.0",
        **known,
    }
    write_atomically(run.run, msgspec.json.encode(row))
    return run


def update_row(run: RunDirectory, version: int, **known: Any) -> dict[str, Any]:
    """Return a plausible row of `updates`: a noisy learning curve."""
    noise = np.random.default_rng(version).normal
    progress = 1 - np.exp(-version / 60)
    return {
        "time": START + timedelta(seconds=version / 5),
        "run_id": run.path.name,
        "policy_version": version,
        "env_steps": version * 8192,
        "seconds": version / 5,
        "env_steps_per_second": 400_000 + noise(0, 15_000),
        "episodes": version * 20,
        "mean_return": None if version < 2 else float(40 * progress + noise(0, 0.8)),
        "mean_episode_length": None if version < 2 else float(400 * progress + noise(0, 9)),
        "policy_loss": noise(0, 0.02),
        "value_loss": 0.5 / (1 + version / 40) + abs(noise(0, 0.03)),
        "entropy": float(1.0986 * np.exp(-version / 150)),
        "gradient_norm": abs(noise(0.4, 0.1)),
        "learning_rate": 0.001,
        "policy_age": 0.5,
        "max_policy_age": 1,
        **known,
    }


def episode_row(run: RunDirectory, episode_id: int, **known: Any) -> dict[str, Any]:
    """Return a row of `episodes`."""
    return {
        "time": START + timedelta(milliseconds=episode_id),
        "run_id": run.path.name,
        "episode_id": episode_id,
        "world": episode_id % 8,
        "world_episode": episode_id // 8,
        "agent": 0,
        "return": float(episode_id % 40),
        "length": 10 + episode_id % 100,
        "terminated": episode_id % 10 != 0,
        "env_steps": episode_id * 50,
        "policy_version": episode_id // 20,
        "metrics": {"food": float(episode_id % 40 + 1)},
        **known,
    }


def evaluation_row(run: RunDirectory, version: int, **known: Any) -> dict[str, Any]:
    """Return a row of `evaluations`."""
    numbers = {"seed": version, "greedy": False, "episodes": 100, "cut_episodes": 0}
    trained = {"policy_version": version, "env_steps": version * 8192, "seconds": version / 5}
    returns = {"mean_return": version / 3, "std_return": 2.0, "min_return": 0.0, "max_return": 50.0}
    means = {"mean_episode_length": 40.0, "metrics": {"food": version / 3 + 1}}
    return {"time": START, "run_id": run.path.name, **trained, **numbers, **returns, **means, **known}


def write_rows(run: RunDirectory, table: str, rows: list[dict[str, Any]]) -> Path:
    """Append rows to a table and return its file."""
    writer = TableWriter(run.table(table), WRITER)
    writer.write(rows)
    writer.close()
    return run.table(table) / f"{WRITER}.jsonl"


def load_runs(url: str, root: Path) -> None:
    """Load the runs in a folder into a store, and make that first."""
    with open_store(url, create=True) as store:
        create_tables(store)
        for run in list_runs(root):
            load_run(store, run)


def steps_columns(run: RunDirectory, ticks: int, **known: Any) -> dict[str, Any]:
    """Return the columns of an episode of `ticks` ticks that ends in a death; `known` replaces some."""
    end = np.arange(ticks) == ticks - 1
    return {
        "run_id": run.path.name,
        "world": 0,
        "world_episode": 0,
        "agent": 0,
        "tick": np.arange(ticks),
        "policy_version": 7,
        "observation": np.zeros((ticks, 4)),
        "action": np.zeros(ticks),
        "action_row": np.zeros((ticks, 0)),
        "reward": np.where(end, -1.0, 0.0),
        "terminated": end,
        "truncated": False,
        "log_prob": -1.0,
        "value": 0.0,
        "state": "",
        **known,
    }


def record_steps(run: RunDirectory, *episodes: Mapping[str, Any]) -> None:
    """Record episodes with these columns, in a file of their own."""
    store_steps(StepsWriter(run.table("steps"), WRITER), *episodes)


def store_steps(writer: StepsWriter, *episodes: Mapping[str, Any]) -> int:
    """Store episodes, and those that the writer has already, in one file; return the number of files."""
    for columns in episodes:
        writer.append(as_episode(columns))
    count, store = writer.begin_flush()
    store()
    return count


@dataclass
class _Tick:
    observations: list[Any]
    alive: list[bool]
    actions: list[int]
    rewards: list[float]
    terminated: list[bool]
    truncated: list[bool]
    state: str


def record_snake(run: RunDirectory, settings: SnakeSettings, *, episode: int = 0, seed: int = 1) -> int:
    """Play a game of snakes that walk to the nearest food in sight, record it, and return its number of ticks."""
    world, ticks, over = SnakeWorld(settings, seed, 0, episode), list[_Tick](), False
    while not over:
        alive = [snake.alive for snake in world.snakes]
        state = encode_state(_snapshot(world))
        observations = [world.observe(i) for i in range(settings.num_snakes)]
        actions = [_greedy(world, i) for i in range(settings.num_snakes)]
        result = world.step(actions)
        ticks.append(_Tick(observations, alive, actions, result.rewards, result.terminated, result.truncated, state))
        over = result.over
    record_steps(run, *(_agent_columns(run, ticks, agent, episode) for agent in range(settings.num_snakes)))
    return len(ticks)


def _agent_columns(run: RunDirectory, ticks: list[_Tick], agent: int, episode: int) -> dict[str, Any]:
    lived = [(number, tick) for number, tick in enumerate(ticks) if tick.alive[agent]]
    return steps_columns(
        run,
        len(lived),
        world_episode=episode,
        agent=agent,
        tick=[number for number, _ in lived],
        observation=[tick.observations[agent] for _, tick in lived],
        action=[tick.actions[agent] for _, tick in lived],
        reward=[tick.rewards[agent] for _, tick in lived],
        terminated=[tick.terminated[agent] for _, tick in lived],
        truncated=[tick.truncated[agent] for _, tick in lived],
        state=[tick.state if tick.alive.index(True) == agent else "" for _, tick in lived],
    )


def _snapshot(world: SnakeWorld) -> dict[str, Any]:
    return {
        "bodies": [[list(cell) for cell in snake.body] for snake in world.snakes],
        "headings": [snake.heading for snake in world.snakes],
        "food": [list(cell) for cell in sorted(world.food)],
    }


def _greedy(world: SnakeWorld, viewer: int) -> int:
    """Choose the safe move that comes nearest to food, over the edges too; 0 when none is safe."""
    me = world.snakes[viewer]
    if not me.alive:
        return 0
    width, height = world.settings.width, world.settings.height
    taken = {cell for snake in world.snakes for cell in list(snake.body)[:-1]}
    best = (1 << 30, 0)
    for action, turn in enumerate((0, 1, 3)):
        dx, dy = ((0, -1), (1, 0), (0, 1), (-1, 0))[(me.heading + turn) % 4]
        x, y = (me.body[0][0] + dx) % width, (me.body[0][1] + dy) % height
        if (x, y) in taken:
            continue
        away = [(abs(x - fx), abs(y - fy)) for fx, fy in world.food]
        best = min(best, (min(min(a, width - a) + min(b, height - b) for a, b in away), action))
    return best[1]
