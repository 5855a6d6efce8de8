"""`rattle up` with one Env, one Inference and one Training process, beside `rattle train` on the same cores.

Speed in pairs of neighbouring runs, how soon and how well it learns, and the same with services that are killed.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from measure import report, table

from learning import EXPERIMENTS, SEEDS, rattle, reached

EXPERIMENT = str(EXPERIMENTS / "snake.yaml")
STEPS = 12_000_000
REPEATS = 5
SECONDS = 60
KILL_EVERY = 10
KILLED_SECONDS = 120
WAYS = {
    "`rattle train`": ("train",),
    "`rattle up`, on_policy": ("up", "--set", "training.mode=on_policy"),
    "`rattle up`, async": ("up", "--set", "training.mode=async"),
}


def speed(way: tuple[str, ...], seed: int) -> tuple[float, str]:
    """Return the environment steps a second of a run, and the beginning of its policy's digest."""
    command, *settings = way
    with tempfile.TemporaryDirectory() as folder:
        limits = ("--steps", str(STEPS), "--seed", str(seed), "--run-dir", f"{folder}/run")
        done = rattle(command, EXPERIMENT, *limits, *settings)
    return float(done["env_steps_per_second"]), str(done["policy_sha256"])


def speeds() -> tuple[str, str]:
    """Let the ways take turns; return a table, and a sentence on their policies."""
    figures: dict[str, list[float]] = {name: [] for name in WAYS}
    same = 0
    for seed in range(REPEATS):
        digests = []
        for name, way in WAYS.items():
            steps_per_second, digest = speed(way, seed)
            figures[name].append(steps_per_second)
            digests.append(digest)
        same += digests[0] == digests[1]
        print(f"seed {seed}: " + ", ".join(f"{name} {values[-1]:,.0f}" for name, values in figures.items()))
    own = figures["`rattle train`"]
    rows = []
    for name, values in figures.items():
        ratios = [value / other for value, other in zip(values, own, strict=True)]
        shares = f"{statistics.median(ratios):.0%}, {min(ratios):.0%} to {max(ratios):.0%}"
        rows.append((name, f"{statistics.median(values):,.0f}", f"{min(values):,.0f}", shares))
    heading = ("", "steps/s, median", "least", "of `rattle train`: median, range")
    return table(heading, rows), f"In mode on_policy {same} of {REPEATS} pairs made the same policy, byte for byte."


def learns(folder: str, mode: str, seed: int) -> tuple[str, ...]:
    """Train for a while; return a row of the table."""
    run = f"{folder}/{mode}-{seed}"
    limits = ("--seconds", str(SECONDS), "--seed", str(seed), "--run-dir", run)
    done = rattle("up", EXPERIMENT, *limits, "--set", f"training.mode={mode}", "--set", "train.steps=null")
    food = rattle("eval", run, "--episodes", "200")
    return (
        mode,
        str(seed),
        f"{done['env_steps'] / 1e6:.1f} M",
        reached(Path(run), 39.0),  # a return of 39 is 40 food and a death
        f"{food['mean_food']:.1f} ± {food['std_food']:.1f}",
    )


def survives(folder: str, mode: str) -> tuple[str, ...]:
    """Train while services are killed; return a row of the table."""
    run = f"{folder}/killed-{mode}"
    limits = ("--seconds", str(KILLED_SECONDS), "--kill-every", f"{KILL_EVERY}s", "--run-dir", run)
    done = rattle("up", EXPERIMENT, *limits, "--set", f"training.mode={mode}", "--set", "train.steps=null")
    food = rattle("eval", run, "--episodes", "200")
    return (
        mode,
        str(done["kills"]),
        str(done["restarts"]),
        f"{done['env_steps'] / 1e6:.1f} M",
        f"{food['mean_food']:.1f} ± {food['std_food']:.1f}",
    )


def main() -> None:
    """Measure all of it."""
    by_way, same = speeds()
    with tempfile.TemporaryDirectory() as folder:
        learnt = [learns(folder, mode, seed) for mode in ("on_policy", "async") for seed in SEEDS]
        killed = [survives(folder, mode) for mode in ("on_policy", "async")]
    report(
        "up",
        "Training spread over services",
        f"shared/experiments/snake.yaml, {STEPS:,} steps, by `rattle train` in one process and by `rattle up` with one "
        f"Env, one Inference and one Training process on the same cores; {REPEATS} runs each, taking turns.",
        by_way,
        same,
        f"How well `rattle up` learns in {SECONDS} seconds; food an episode in 200 fresh evaluation episodes (mean ± "
        "standard deviation).",
        table(("mode", "seed", "steps", "40 food in training after", "food"), learnt),
        f"The same in {KILLED_SECONDS} seconds with `--kill-every {KILL_EVERY}s`: a random one of the three is killed "
        "(`kill -9`) at this interval, and what was not in a checkpoint is learnt again.",
        table(("mode", "kills", "restarts", "steps", "food"), killed),
    )


if __name__ == "__main__":
    main()
