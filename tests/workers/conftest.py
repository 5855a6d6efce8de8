"""Environments of a user for tests of worker processes, and worlds of them in some processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from rattle.envs.registry import make_worlds
from rattle.workers.worlds import WorkerWorlds
from tests.user_code import UserModule, user_module

__all__ = ["user_module"]

#: An environment of which an action, a file or a setting has a worker end, hang, print or raise.
TROUBLE = """
    import os, signal, sys, time
    import gymnasium, numpy as np
    from pathlib import Path

    class Trouble(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)

        def __init__(self, actions: int = 6, length: int = 7, parent: int = 0, deadly: str = "", hangs: str = ""):
            self.action_space = gymnasium.spaces.Discrete(actions)
            self.length, self.parent, self.deadly = length, parent, deadly
            self.hangs = hangs if "worker" in sys.argv[0] else ""
            self.left = 200

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.ticks = 0
            if self.deadly and Path(self.deadly).exists() and os.getpid() != self.parent:
                os.kill(os.getpid(), signal.SIGKILL)
            return self.np_random.random(3, np.float32), {}

        def step(self, action):
            if action == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if action == 2:
                os._exit(3)
            if action == 3:
                time.sleep(1e6)
            if action == 4:
                print("a line for nobody"), os.write(1, b"another for nobody\\n")
            if action == 5:
                raise ValueError("no such luck")
            self.left -= 1
            if self.hangs and not self.left:
                open(self.hangs, "w").close()
                while True:
                    pass
            self.ticks += 1
            over = self.ticks >= self.length + int(self.np_random.integers(3))
            return self.np_random.random(3, np.float32), float(self.ticks), over, False, {}
"""

#: Makes worlds in worker processes: settings, worlds, seed, first world, processes.
InWorkers = Callable[..., WorkerWorlds]


@pytest.fixture
def trouble(user_module: UserModule) -> str:
    """Return the id of an environment that makes trouble on request."""
    user_module("my_trouble", TROUBLE)
    return "my_trouble:Trouble"


@pytest.fixture
def in_workers() -> Iterator[InWorkers]:
    """Yield what makes worlds in worker processes; they are closed at the end."""
    with ExitStack() as stack:

        def make(
            environment: str,
            num_worlds: int,
            *,
            settings: Mapping[str, Any] | None = None,
            seed: int = 7,
            first_world: int = 0,
            processes: int = 1,
            answer_seconds: float = 60.0,
        ) -> WorkerWorlds:
            one = make_worlds(environment, settings or {}, 1, seed)
            worlds = WorkerWorlds(
                one.spec, num_worlds, seed, first_world, processes=processes, answer_seconds=answer_seconds
            )
            one.close()
            stack.callback(worlds.close)
            return worlds

        yield make
