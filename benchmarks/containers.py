"""compose's core profile from images, beside `rattle up` without containers.

How soon the first episode is over, and how fast it trains, in pairs of neighbouring runs. It needs Docker and images:
`.ci/images run .venv/bin/python benchmarks/containers.py` builds them with a daemon of its own, and removes both.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measure import report, table

from learning import EXPERIMENTS, rattle

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.deploy.containers import Stack, docker, wait_for
from tests.trainer.conftest import read_rows

from rattle.runs.run_tables import read_run_row

STEPS = 12_000_000
REPEATS = 3
EXPERIMENT = (EXPERIMENTS / "snake.yaml").read_text().replace("40_000_000", str(STEPS))


def in_containers(folder: Path, seed: int) -> tuple[float, dict[str, Any]]:
    """Return the seconds from `up` to the end of the first episode, and the row of the finished run."""
    for name in ("stack", "run"):
        (folder / name).mkdir()
    with Stack(folder / "stack", EXPERIMENT.replace("seed: 0", f"seed: {seed}"), "core") as stack:
        began = datetime.now(UTC)
        stack.script("up")
        training = stack.container("training")

        def is_over() -> bool:
            time.sleep(5)  # a process in a container takes a tenth of a second, which training is not to notice
            return '"status":"finished"' in docker("exec", training, "cat", "/runs/run/run.json", check=False)

        wait_for("the run is over", is_over, seconds=600)
        directory = stack.copied("run", folder / "copy")
    first = min(str(row["time"]) for row in read_rows(directory, "episodes"))
    return (datetime.fromisoformat(first) - began).total_seconds(), read_run_row(directory)


def main() -> None:
    """Let both take turns."""
    seconds, ratios, rows, same = [], [], [], 0
    for seed in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            first, contained = in_containers(Path(folder), seed)
            limits = ("--steps", str(STEPS), "--seed", str(seed), "--run-dir", f"{folder}/up")
            began = time.monotonic()
            bare = rattle("up", str(EXPERIMENTS / "snake.yaml"), *limits)
        speeds = contained["env_steps_per_second"], bare["env_steps_per_second"]
        seconds.append(first)
        ratios.append(speeds[0] / speeds[1])
        same += contained["policy_sha256"] == bare["policy_sha256"]
        rows.append((str(seed), f"{first:.1f}", *(f"{speed:,.0f}" for speed in speeds), f"{ratios[-1]:.1%}"))
        print(f"seed {seed}: {rows[-1]}, {time.monotonic() - began:.0f} s without containers")
    heading = ("seed", "first episode over after, s", "steps/s in containers", "steps/s of `rattle up`", "ratio")
    report(
        "containers",
        "Training in containers",
        f"shared/experiments/snake.yaml, {STEPS:,} steps, by compose's profile core from images and by `rattle up` "
        f"without containers, on the same cores; {REPEATS} runs each, taking turns. The first episode counts from "
        "`docker-compose up`, with the images built.",
        table(heading, rows),
        f"Median: {statistics.median(seconds):.1f} s, {statistics.median(ratios):.1%}. {same} of {REPEATS} pairs made "
        "the same policy, byte for byte.",
    )


if __name__ == "__main__":
    main()
