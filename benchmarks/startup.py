"""How long the command takes to answer."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from measure import report, table

REPEATS = 15


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Return the median and the longest time of a whole process."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        times.append(time.perf_counter() - began)
    return statistics.median(times), max(times)


def main() -> None:
    """Time help beside an interpreter that does nothing."""
    rattle = str(Path(sys.executable).with_name("rattle"))
    commands = {
        "`python -c pass`": [sys.executable, "-c", "pass"],
        "`rattle --help`": [rattle, "--help"],
        "`rattle train --help`": [rattle, "train", "--help"],
        "`rattle --version`": [rattle, "--version"],
    }
    rows = [(name, *(f"{value:.3f}" for value in seconds(command))) for name, command in commands.items()]
    report(
        "startup",
        "Start-up",
        f"Seconds of a whole process, {REPEATS} runs.",
        table(("command", "median", "most"), rows),
    )


if __name__ == "__main__":
    main()
