"""How fast it learns: the default experiment to 40 food an episode, and CartPole to a return of 475."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measure import report, table

from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.updates import read_updates

EXPERIMENTS = Path(__file__).parents[1] / "shared" / "experiments"
RATTLE = [sys.executable, "-P", "-m", "rattle.cli"]
SEEDS = (0, 1, 2)


def rattle(*arguments: str) -> dict[str, Any]:
    """Run the command and return the object in its last line."""
    done = subprocess.run([*RATTLE, *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def snake(folder: str, seed: int, *choice: str) -> tuple[str, ...]:
    """Train the default experiment for a minute; return a row of the table."""
    run = f"{folder}/snake-{seed}{len(choice)}"
    usual = ["--seconds", "60", "--seed", str(seed), "--run-dir", run]
    trained = rattle("train", str(EXPERIMENTS / "snake.yaml"), *usual, *choice)
    sampled = rattle("eval", run, "--episodes", "200")
    greedy = rattle("eval", run, "--episodes", "200", "--greedy")
    return (
        str(seed),
        f"{trained['env_steps'] / 1e6:.1f} M",
        f"{trained['seconds']:.0f}",
        f"{trained['env_steps_per_second']:,.0f}",
        reached(Path(run), 39.0),  # a return of 39 is 40 food and a death
        f"{sampled['mean_food']:.1f} ± {sampled['std_food']:.1f}",
        f"{greedy['mean_food']:.1f} ± {greedy['std_food']:.1f}",
    )


def cartpole(folder: str, algorithm: str, seed: int) -> tuple[str, ...]:
    """Train CartPole with its experiment file; return a row of the table."""
    run = f"{folder}/cartpole-{algorithm}-{seed}"
    choice = ["--set", f"algorithm.id={algorithm}", "--seed", str(seed), "--run-dir", run]
    trained = rattle("train", str(EXPERIMENTS / "cartpole.yaml"), *choice)
    evaluated = rattle("eval", run, "--episodes", "100")
    return (
        algorithm,
        str(seed),
        f"{trained['env_steps']:,}",
        f"{trained['seconds']:.0f}",
        reached(Path(run), 475.0),
        f"{evaluated['mean_return']:.1f} ± {evaluated['std_return']:.1f}",
    )


def reached(run: Path, mean_return: float) -> str:
    """Return when the mean return of the last 100 training episodes first reached a number."""
    updates = read_updates(RunDirectory(run))
    rows = np.flatnonzero(updates["mean_return"] >= mean_return)
    if not len(rows):
        return "never"
    return f"{updates['seconds'][rows[0]]:.1f} s, {updates['env_steps'][rows[0]] / 1e6:.2f} M steps"


def main() -> None:
    """Train and evaluate everything, three seeds each."""
    with tempfile.TemporaryDirectory() as folder:
        snakes = [snake(folder, seed) for seed in SEEDS]
        bare = [snake(folder, seed, "--set", "policy.inputs=[]") for seed in SEEDS]
        poles = [cartpole(folder, algorithm, seed) for algorithm in ("a2c", "reinforce") for seed in SEEDS]
    heading = ("seed", "steps", "seconds", "steps/s", "40 food in training after", "food", "food, greedy")
    report(
        "learning",
        "Learning",
        "The default experiment for 60 seconds; food an episode in 200 fresh evaluation episodes (mean ± standard "
        "deviation), drawing actions from the policy, and taking the likeliest.",
        table(heading, snakes),
        "The same without what a policy sees of its own past, `policy.inputs=[]`. In fog a snake that always does the "
        "same where it sees nothing circles the torus on one line and starves: only a policy that draws finds food.",
        table(heading, bare),
        "`gym:CartPole-v1` with shared/experiments/cartpole.yaml; return over 100 fresh evaluation episodes.",
        table(("algorithm", "seed", "steps", "seconds", "475 in training after", "return"), poles),
    )


if __name__ == "__main__":
    main()
