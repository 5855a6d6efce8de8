"""Training over the vector API, the Env service in a process of its own, beside training in process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile

from measure import report, table
from vector_api import server

STEPS = 6_000_000
REPEATS = 5


def speed(*overrides: str) -> float:
    """Return the environment steps a second of one run of the default experiment."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-P",
            "-m",
            "rattle.cli",
            "train",
            "--json",
            "--steps",
            str(STEPS),
            "--run-dir",
            folder + "/run",
        ]
        command += [part for override in overrides for part in ("--set", override)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))  # noqa: S603
    return float(json.loads(done.stdout.splitlines()[-1])["env_steps_per_second"])


def main() -> None:
    """Let the two take turns."""
    speeds: dict[str, list[float]] = {"in process": [], "over the vector API": []}
    with server("-P", "-m", "rattle.cli", "env", "--port", "0") as url:
        for _ in range(REPEATS):
            speeds["in process"].append(speed())
            speeds["over the vector API"].append(speed(f"env.url={url}"))
    ratios = [served / own for own, served in zip(*speeds.values(), strict=True)]
    rows = [
        (name, f"{statistics.median(values) / 1e3:,.0f} k", f"{max(values) / 1e3:,.0f} k")
        for name, values in speeds.items()
    ]
    report(
        "served_training",
        "Training over the vector API",
        f"`rattle train` with the default experiment, {STEPS:,} steps, in process and with `env.url`, the Env service "
        f"in its own process on the same cores; {REPEATS} runs each, taking turns.",
        table(("environment", "steps/s, median", "best"), rows),
        f"Ratio of neighbouring runs: median {statistics.median(ratios):.2f}, "
        f"from {min(ratios):.2f} to {max(ratios):.2f}.",
    )


if __name__ == "__main__":
    main()
