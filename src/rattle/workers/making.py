"""Makes worlds in worker processes, where that is wanted and of use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Literal

from rattle.envs.errors import EnvError, EnvironmentFailed
from rattle.envs.vector import Vector
from rattle.events import emit, of_runs
from rattle.workers.choice import Tried, choose, usable_cores
from rattle.workers.worlds import WorkerWorlds


def make_in_workers(
    tried: Callable[[], Tried],
    wanted: int | Literal["auto"],
    seed: int,
    bounds: Sequence[int],
    *,
    answer_seconds: float = 30.0,
    vector: Vector = "never",
    steps: int | None = None,
    play_seconds: float | None = None,
    most: int | None = None,
) -> list[WorkerWorlds]:
    """Return worlds in parts, from each of the bounds to the next; none where this process had better step them.

    `tried` returns what `try_one` says of a world in this process. `steps` and `play_seconds` say how much the worlds
    are played, where that is known, and `most` how many processes may be started.

    Raises EnvError for an environment that cannot be had; with "auto", only what is wrong in this process too.
    """
    num_worlds, parts = bounds[-1] - bounds[0], list(pairwise(bounds))
    if wanted == 1 or num_worlds == 1 or most == 0:
        return []
    spec, seconds = tried()
    long = min(math.inf if steps is None else steps * seconds, math.inf if play_seconds is None else play_seconds)
    processes = choose(wanted, seconds, num_worlds, len(parts), usable_cores(), long)
    processes = processes if most is None else min(processes, most)
    if processes < 2:
        return []
    shares = [processes * number // len(parts) for number in range(len(parts) + 1)]

    def make(number: int) -> WorkerWorlds:
        first, after = parts[number]
        own = shares[number + 1] - shares[number]
        return WorkerWorlds(
            spec, after - first, seed, first, processes=own, answer_seconds=answer_seconds, vector=vector
        )

    try:
        made = _side_by_side(make, len(parts))
    except EnvironmentFailed:
        raise
    except EnvError as error:
        if wanted != "auto":
            raise EnvError(f"{error}, in a worker process: with env.processes=1 there is none") from error
        emit(of_runs.NoWorkers(error=str(error)))
        return []
    microseconds = seconds * 1e6 if wanted == "auto" else None
    emit(
        of_runs.WorldsInProcesses(
            environment=spec.id, worlds=num_worlds, processes=processes, microseconds=microseconds
        )
    )
    return made


def _side_by_side(make: Callable[[int], WorkerWorlds], count: int) -> list[WorkerWorlds]:
    """Make so many parts at once: processes take long to start. Raises the first error, with nothing left behind."""
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(make, number) for number in range(count)]
    if (failed := next((future.exception() for future in futures if future.exception()), None)) is not None:
        for future in futures:
            if not future.exception():
                future.result().close()
        raise failed
    return [future.result() for future in futures]
