"""CartPole-v1 in its own vector environment: `rattle train` end to end beside its floor, and what the adapter costs.

The floor is the time of the bare parts for the same samples on the same two threads: the vector environment stepped
alone with random actions, the compiled forward pass alone, and PyTorch's forward, backward and Adam step alone. It is
measured after each run in the same process. Seconds are those of the wall clock: nothing else may run meanwhile.
"""

from __future__ import annotations

import statistics
import time

import gymnasium
import numpy as np
import torch
from measure import median_seconds, report, table
from training import THREADS, bare_parts, train

from rattle.envs.registry import make_worlds
from rattle.envs.vector import VectorWorlds
from rattle.rollouts.complete import complete
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.experiment_files import find_experiment
from rattle.settings.sources import load_settings
from rattle.trainer.loop import TrainingRun

WORLDS = 1024
SECONDS = 8.0
REPEATS = 3
ENVIRONMENT = "CartPole-v1"
SETTINGS = (
    f"env.id=gym:{ENVIRONMENT}",
    "env.vector=always",
    f"env.worlds={WORLDS}",
    f"train.actors={THREADS}",
    "policy.activation=relu",
    "algorithm=a2c",
    "algorithm.scale_observations=false",
    "algorithm.scale_rewards=false",
)


def settings(*overrides: str) -> ExperimentSettings:
    """Return the experiment, with what its environment decides filled in."""
    return complete(load_settings(None, [*SETTINGS, *overrides], {}))


def floor_parts(run: TrainingRun) -> dict[str, float]:
    """Return the seconds that each bare part takes for one rollout of the run's policy."""
    ticks, half = run.settings.algorithm.ticks, WORLDS // THREADS  # type: ignore[union-attr]
    bare = [gymnasium.make_vec(ENVIRONMENT, half) for _ in range(THREADS)]
    actions = np.random.default_rng(0).integers(0, 2, (ticks, half))
    for thread, env in enumerate(bare):
        env.reset(seed=thread)

    def step(thread: int) -> None:
        for tick in range(ticks):
            bare[thread].step(actions[tick])

    return bare_parts(run, step)


def worlds_speed(worlds: VectorWorlds, ticks: int) -> float:
    """Return steps a second of worlds alone, on one thread, with random actions."""
    actions = np.random.default_rng(0).integers(0, 2, (64, WORLDS))
    return WORLDS * ticks / median_seconds(lambda: [worlds.step(actions[tick % 64]) for tick in range(ticks)], 5)


def bare_speed(ticks: int) -> float:
    """Return the same of the bare vector environment."""
    bare = gymnasium.make_vec(ENVIRONMENT, WORLDS)
    bare.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, (64, WORLDS))
    return WORLDS * ticks / median_seconds(lambda: [bare.step(actions[tick % 64]) for tick in range(ticks)], 5)


def learnt_in(seed: int) -> tuple[float, int]:
    """Return the seconds of training, and the steps, until the experiment cartpole-vector reaches a mean of 475."""
    own = load_settings(find_experiment("cartpole-vector"), [f"seed={seed}", "train.stop_at_return=475"], {})
    run, speed, _ = train(complete(own), 60.0)
    steps = run.recorder.counters.env_steps
    return steps / speed, steps


def main() -> None:
    """Measure floor and training in turn, several times, and report medians."""
    torch.set_num_threads(1)
    train(settings(), 3.0)
    speeds, ratios, floors = [], [], []
    for seed in range(REPEATS):
        run, speed, _ = train(settings(f"seed={seed}"), SECONDS)
        samples = WORLDS * run.settings.algorithm.ticks  # type: ignore[union-attr]
        parts = {name: samples / seconds for name, seconds in floor_parts(run).items()}
        floor = 1 / sum(1 / each for each in parts.values())
        floors.append({**parts, "all": floor})
        speeds.append(speed)
        ratios.append(speed / floor)
        print(f"seed {seed}: {speed:,.0f} steps/s, floor {floor:,.0f}, ratio {speed / floor:.2f}")
    middle = {name: statistics.median(parts[name] for parts in floors) for name in floors[0]}
    began = time.perf_counter()
    ours = worlds_speed(make_worlds(f"gym:{ENVIRONMENT}", {}, WORLDS, 0, vector="always"), 400)
    alone = worlds_speed(make_worlds(f"gym:{ENVIRONMENT}", {}, WORLDS, 0), 20)
    bare = bare_speed(400)
    print(f"worlds alone were measured in {time.perf_counter() - began:.1f} s")
    learnt = [learnt_in(seed) for seed in range(REPEATS)]
    rows = [
        ("floor: the bare vector environment, two batches", f"{middle['step']:,.0f}"),
        ("floor: bare forward pass", f"{middle['act']:,.0f}"),
        ("floor: bare forward, backward and Adam", f"{middle['learn']:,.0f}"),
        ("floor: the three in turn", f"{middle['all']:,.0f}"),
        ("**`rattle train`, end to end**", f"**{statistics.median(speeds):,.0f}**"),
        ("the bare vector environment, one thread", f"{bare:,.0f}"),
        ("the same behind the vector protocol", f"{ours:,.0f}"),
        ("worlds in turn (`env.vector=never`)", f"{alone:,.0f}"),
    ]
    report(
        "vector_env",
        "CartPole-v1 in its vector environment",
        f"{WORLDS} worlds, network 4-64-64-3, {THREADS} threads, `{' '.join(SETTINGS)}`; medians of {REPEATS} runs of "
        f"{SECONDS:.0f} seconds, each followed by its floor. Steps are ticks of worlds, also those in which a world "
        "that ended is reset.",
        table(("", "environment steps/s"), rows),
        f"End to end, the median run reaches **{statistics.median(ratios):.0%}** of the floor measured beside it "
        f"(least {min(ratios):.0%}, most {max(ratios):.0%}).",
        "The experiment cartpole-vector reaches a mean return of 475 over 100 episodes in "
        + ", ".join(f"{seconds:.1f} s ({steps:,} steps)" for seconds, steps in learnt)
        + " of training, with seeds 0, 1 and 2.",
    )


if __name__ == "__main__":
    main()
