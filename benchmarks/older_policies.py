"""`rattle up` with two Env services: mode async, with rollouts of older policies, beside mode on_policy.

How soon 40 food an episode are reached, how old rollouts were, and what V-trace's correction of them is worth.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from measure import report, table

from learning import EXPERIMENTS, SEEDS, rattle
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.updates import read_updates

EXPERIMENT = str(EXPERIMENTS / "snake.yaml")
SECONDS = 45
FORTY_FOOD = 39.0  # a return of 39 is 40 food and a death
OLD = ("training.mode=async", "training.max_policy_age=8", "training.max_waiting=8")
WAYS = {
    "on_policy": ("training.mode=on_policy",),
    "async": ("training.mode=async",),
    "async, up to 8 updates old": OLD,
    "the same, not corrected": (*OLD, "algorithm.correction=none"),
}


def learns(folder: str, way: str, seed: int, seconds: float) -> tuple[float, list[str]]:
    """Train for a while; return the seconds until 40 food, infinite if there were never so many, and a table's row."""
    run = f"{folder}/{len(list(Path(folder).iterdir()))}"
    chosen = ("topology.env=2", "train.steps=null", *WAYS[way])
    settings = [part for setting in chosen for part in ("--set", setting)]
    done = rattle("up", EXPERIMENT, "--seconds", str(seconds), "--seed", str(seed), "--run-dir", run, *settings)
    updates = read_updates(RunDirectory(Path(run)))
    rows = np.flatnonzero(updates["mean_return"] >= FORTY_FOOD)
    reached = float(updates["seconds"][rows[0]]) if len(rows) else float("inf")
    steps = f"{updates['env_steps'][rows[0]] / 1e6:.2f} M" if len(rows) else "-"
    ages = f"{np.mean(updates['policy_age']):.1f}, {np.max(updates['max_policy_age']):.0f}"
    speed = f"{done['env_steps_per_second']:,.0f}"
    return reached, [way, str(seed), speed, ages, f"{np.mean(updates['mean_rho']):.3f}", f"{reached:.1f} s", steps]


def main() -> None:
    """Let the ways take turns, and report all runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each run")
    seconds = parser.parse_args().seconds
    reached: dict[str, list[float]] = {way: [] for way in WAYS}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            for way in WAYS:
                after, row = learns(folder, way, seed, seconds)
                reached[way].append(after)
                rows.append(row)
                print(", ".join(row))
    medians = {way: statistics.median(values) for way, values in reached.items()}
    floor = medians["on_policy"]
    ratios = "; ".join(f"{way}: {median:.1f} s, {median / floor:.0%}" for way, median in medians.items())
    heading = ("mode", "seed", "steps/s", "age: mean, most", "mean rho", "40 food in training after", "steps")
    report(
        "older_policies",
        "Learning from older policies",
        f"shared/experiments/snake.yaml by `rattle up` with two Env, one Inference and one Training service on the "
        f"same cores, for {seconds:g} seconds; runs of a seed take turns. Ages are in updates.",
        table(heading, rows),
        f"Seconds to 40 food, median over the seeds, and their share of those in mode on_policy: {ratios}.",
    )


if __name__ == "__main__":
    main()
