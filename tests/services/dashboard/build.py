"""Runs with settings, events and policies, as real ones have them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from rattle.analytics.run_directory import RunDirectory
from rattle.policies.file import StoredPolicy, dump_policy
from rattle.policies.kinds import kind_of
from rattle.policies.mlp.spec import MlpSpec
from rattle.samples.spaces import ActionSpace, CodeSpace, DiscreteSpace
from rattle.services.dashboard.app import DashboardService
from rattle.services.dashboard.source import RunSource
from rattle.services.utils.guard import Guard
from rattle.settings.services import SecuritySection
from tests.analytics.build import START, episode_row, evaluation_row, make_run, update_row, write_rows


class Client:
    """Asks pages of the dashboard over a source of runs, without sockets."""

    def __init__(self, source: RunSource) -> None:
        self._service = DashboardService(source, Guard("127.0.0.1", SecuritySection()))

    def ask(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, **params: Any
    ) -> httpx.Response:
        """Return the answer to one request."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._service, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
                return await client.request(method, path, params=params or None, headers=headers)

        return asyncio.run(send())


def make_full_run(
    root: Path, name: str, *, updates: int = 30, rate: float = 0.001, seed: int = 1, **known: Any
) -> RunDirectory:
    """Make a run with updates, episodes, evaluations and events."""
    config = {"seed": seed, "algorithm": {"id": "a2c", "learning_rate": rate, "discount": 0.99}, "env": {"id": "snake"}}
    run = make_run(root, name, seed=seed, config=config, **known)
    write_rows(run, "updates", [update_row(run, version, learning_rate=rate) for version in range(1, updates + 1)])
    write_rows(run, "episodes", [episode_row(run, number) for number in range(updates * 20)])
    write_rows(run, "evaluations", [evaluation_row(run, version) for version in range(10, updates + 1, 10)])
    return run


def log(
    run: RunDirectory, event: str, level: str = "INFO", service: str = "train", second: int = 0, **fields: Any
) -> None:
    """Write an event of a run."""
    row = {"time": START + timedelta(seconds=second), "run_id": run.path.name, "level": level, "service": service}
    more = {"event": event, "experiment": "snake", "host": "here", "pid": 1, "fields": json.dumps(fields)}
    write_rows(run, "logs", [row | more])


def store_policy(path: Path, version: int, cells: int = 60, action: ActionSpace | None = None) -> None:
    """Store a policy, for snakes if nothing else is said, that does what its weights happen to say."""
    spec = MlpSpec(
        observation=CodeSpace(cells=cells, codes=5),
        action=action or DiscreteSpace(n=3),
        hidden_sizes=(8,),
        activation="tanh",
        value_head=True,
    )

    shapes = kind_of(spec).parameter_shapes(spec)
    generator = np.random.default_rng(version)
    parameters = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    path.write_bytes(dump_policy(StoredPolicy(spec, parameters, version, "snake", {})))
