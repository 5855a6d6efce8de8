"""What the benchmarks share: timing, the machine's description and tables in Markdown."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median time of `work` over some repeats, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def side_by_side(pool: ThreadPoolExecutor, works: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """Return work that does all of `works` at once, a thread each."""
    return lambda: list(pool.map(lambda work: work(), works))


def machine() -> str:
    """Return one line about this machine: what matters for the figures, and no name of it."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are figures."""
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(name: str, title: str, *parts: str) -> None:
    """Print a report and store it in results/NAME.md."""
    text = "\n\n".join([f"# {title}", f"Machine: {machine()}.", *parts]) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)
