"""Steps a second of a Python environment that takes 100 microseconds a step: one process, bare workers, and ours.

Two bare processes that loop over their environments are the floor: they wait for nobody and choose nothing. Ours are
measured as collected (acting and stepping, as training does it), and end to end with learning. Cases are measured in
turns, so that a machine that gets slower does so for all.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium
import numpy as np
from measure import report, table

from rattle.rollouts.complete import complete
from rattle.rollouts.worlds import policy_spec
from rattle.samples.rollout import as_tensors
from rattle.settings.sources import load_settings
from rattle.trainer.build import build_acting_policy, build_collector, build_learner

SIZES = (4, 16, 64, 256, 1024)
PROCESSES = 2
STEP_SECONDS = 100e-6
SECONDS = 2.0  # a measurement
REPEATS = 5

#: Measures once, and returns steps a second.
Case = Callable[[], float]


class Busy(gymnasium.Env[np.ndarray, int]):
    """Keeps a core busy for 100 microseconds a step; episodes of 200 steps."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[np.ndarray, dict[str, object]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.ticks = 0
        self.seen = self.np_random.uniform(-1, 1, 4).astype(np.float32)
        return self.seen, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        """Do nothing for a while."""
        until = time.thread_time() + STEP_SECONDS  # of a core, so that a busy machine makes no step cheaper
        while time.thread_time() < until:
            pass
        self.ticks += 1
        return self.seen, float(action), False, self.ticks >= 200, {}


def _bare(worlds: int, seconds: float) -> None:
    """Step environments in a loop, as soon as a line comes, and print steps a second; for a process of its own."""
    envs = [Busy() for _ in range(worlds)]
    for number, env in enumerate(envs):
        env.reset(seed=number)
    print("ready", flush=True)
    for _line in sys.stdin:
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            for env in envs:
                _, _, terminated, truncated, _ = env.step(0)
                if terminated or truncated:
                    env.reset()
            steps += worlds
        print(steps / (time.perf_counter() - began), flush=True)


@contextmanager
def bare(processes: int, worlds: int, seconds: float) -> Iterator[Case]:
    """Yield what measures so many bare processes side by side, with the worlds split among them."""
    command = [sys.executable, __file__, "--bare", str(worlds // processes), "--seconds", str(seconds)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)  # noqa: S603
        for _ in range(processes)
    ]
    try:
        for one in started:
            assert one.stdout is not None  # noqa: S101
            one.stdout.readline()

        def measure() -> float:
            for one in started:
                print("go", file=one.stdin, flush=True)
            return sum(float(one.stdout.readline()) for one in started if one.stdout is not None)

        yield measure
    finally:
        for one in started:
            one.communicate()


@contextmanager
def ours(processes: int, worlds: int, seconds: float, *, learns: bool) -> Iterator[Case]:
    """Yield what measures the collector that training uses, alone or with the learner."""
    own = ["env.id=worker_processes:Busy", f"env.worlds={worlds}", f"env.processes={processes}"]
    settings = complete(load_settings(None, own, {}))
    collector = build_collector(settings)
    learner = build_learner(settings, policy_spec(settings, collector.batches[0].spec))
    policy = build_acting_policy(settings, learner)

    def once() -> int:
        rollout = collector.collect(policy, learner.version, lambda _episode: False)
        if learns:
            learner.update(as_tensors(rollout))
            policy.load(learner.parameters())
        return int(rollout.world_episode.size)

    def measure() -> float:
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            steps += once()
        return steps / (time.perf_counter() - began)

    try:
        once()
        yield measure
    finally:
        collector.close()
        learner.close()


def in_turns(cases: list[Case], repeats: int) -> list[float]:
    """Return the median of each case, measured in turns."""
    found = [[case() for case in cases] for _ in range(repeats)]
    return [statistics.median(values) for values in zip(*found, strict=True)]


def rows(worlds: int, seconds: float, repeats: int) -> tuple[list[str], list[str]]:
    """Measure one number of worlds; return the rows of both tables."""
    with (
        bare(1, worlds, seconds) as one,
        bare(PROCESSES, worlds, seconds) as floor,
        ours(1, worlds, seconds, learns=False) as here,
        ours(PROCESSES, worlds, seconds, learns=False) as workers,
        ours(1, worlds, seconds, learns=True) as trained_here,
        ours(PROCESSES, worlds, seconds, learns=True) as trained,
    ):
        single, bare_rate, own, many, slow, quick = in_turns(
            [one, floor, here, workers, trained_here, trained], repeats
        )
    played = [single, bare_rate, own, many]
    return (
        [f"{worlds:,}", *(f"{rate:,.0f}" for rate in played), f"{many / own:.2f}", f"{many / bare_rate:.0%}"],
        [f"{worlds:,}", f"{slow:,.0f}", f"{quick:,.0f}", f"{quick / slow:.2f}", f"{quick / bare_rate:.0%}"],
    )


def main() -> None:
    """Measure all sizes and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a measurement")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--worlds", type=int, nargs="+", default=SIZES)
    given = parser.parse_args()
    if given.bare:
        _bare(given.bare, given.seconds)
        return
    sys.path.insert(0, str(Path(__file__).parent))
    played, trained = zip(*(rows(worlds, given.seconds, given.repeats) for worlds in given.worlds), strict=True)
    report(
        "worker_processes",
        "A Python environment of 100 microseconds a step, in worker processes",
        "Environment steps a second, acting and stepping: "
        f"bare processes do not act. Medians of {given.repeats} turns of {given.seconds:g} seconds.",
        table(
            (
                "worlds",
                "1 bare process",
                f"{PROCESSES} bare processes (floor)",
                "`env.processes=1`",
                f"`env.processes={PROCESSES}`",
                "times one process",
                "of the floor",
            ),
            played,
        ),
        "The same with learning, by the defaults for numbers:",
        table(
            ("worlds", "`env.processes=1`", f"`env.processes={PROCESSES}`", "times one process", "of the floor"),
            trained,
        ),
    )


if __name__ == "__main__":
    main()
