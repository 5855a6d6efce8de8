"""How many worker processes worlds are stepped in."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from rattle.envs.errors import EnvError
from rattle.envs.logged_worlds import LoggedWorlds
from rattle.envs.vector import EnvironmentSpec, VectorWorlds, random_actions

#: Steps that take less are not worth the way to another process, in seconds.
_LEAST_STEP = 30e-6
#: What a tick takes at least that is divided, for each worker, in seconds.
_LEAST_TICK = 200e-6
#: What all steps together take at least for which processes are started, in seconds.
_LEAST_PLAY = 4.0
#: Steps are measured for so many seconds, or until there are so many.
_MEASURED_SECONDS, _MEASURED_STEPS = 0.1, 1000


class Tried(NamedTuple):
    """What an environment is, and about how many seconds a step of a world takes."""

    spec: EnvironmentSpec
    seconds: float


def try_one(make_one: Callable[[], VectorWorlds], *, measures: bool) -> Tried:
    """Return what an environment is, and about how long a step of a world takes.

    That is 0 where it is not wanted, and where workers are of no use: worlds are not stepped one by one there. Raises
    EnvError where no world can be made.
    """
    with closing(make_one()) as worlds:
        seconds = 0.0
        if measures and isinstance(worlds, LoggedWorlds):
            with suppress(EnvError):  # it will come again where it is known what to do about it
                seconds = _measure(worlds)
        return Tried(worlds.spec, seconds)


def _measure(worlds: VectorWorlds) -> float:
    """Return the mean of the quickest nine tenths of some steps: the others waited for a core, or began an episode."""
    random = np.random.default_rng(0)
    took: list[float] = []
    left = _MEASURED_SECONDS
    while left > 0 and len(took) < _MEASURED_STEPS:
        action = random_actions(worlds, random)
        began = time.perf_counter()
        worlds.step(action)
        took.append(time.perf_counter() - began)
        left -= took[-1] if len(took) > 1 else 0.0
    kept = sorted(took[1:])[: max(1, len(took) * 9 // 10)]  # the very first may have more to do
    return sum(kept) / len(kept) / worlds.num_worlds


def choose(
    wanted: int | Literal["auto"],
    seconds: float,
    num_worlds: int,
    parts: int = 1,
    cores: int = 1,
    play_seconds: float = math.inf,
) -> int:
    """Return in how many processes worlds are stepped that are divided in parts: 1 is this one.

    Each part has a worker at least. `seconds` is what `try_one` says, `play_seconds` how long all steps take.
    """
    if wanted == "auto":
        if seconds < _LEAST_STEP or play_seconds < _LEAST_PLAY or cores < 2:
            return 1
        useful = int(num_worlds * seconds / _LEAST_TICK)
        number = min(cores // parts * parts or parts, useful)
    else:
        number = wanted
    return 1 if min(number, num_worlds) < 2 else min(max(number, parts), num_worlds)


def usable_cores() -> int:
    """Return how many cores this process may use, as far as it can be known."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such group, or "max"
        return cores
