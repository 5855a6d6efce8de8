"""Run all benchmarks, one after the other, so that none disturbs another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "startup",
    "dashboard",
    "kernel",
    "lines",
    "agent_streams",
    "vector_api",
    "training",
    "worker_processes",
    "vector_env",
    "served_training",
    "up",
    "older_policies",
    "own_networks",
    "update_policy",
    "policy_latency",
    "serving",
    "security",
    "attacks",
    "pace",
    "lockstep",
    "telemetry",
    "events",
    "long_tables",
    "published_training",
    "learning",
    "defaults",
)


def main() -> None:
    """Run each benchmark in a process of its own."""
    for name in sys.argv[1:] or BENCHMARKS:
        subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py"))], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
