"""How long the first view of a run of 100,000 episodes takes, and that of a folder of 1,000 runs."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import msgspec
import numpy as np
from measure import report, table
from playwright.sync_api import Page, sync_playwright

RUNS, EPISODES, UPDATES, REPEATS = 1_000, 100_000, 5_000, 3
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
CHARTS_ARE_DRAWN = "document.querySelectorAll('[data-chart] .main-svg').length > 0"


def write(path: Path, rows: Iterator[dict[str, object]]) -> None:
    """Write rows of a table as a run does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.Encoder().encode_lines(list(rows)))


def make_run(root: Path, number: int) -> Path:
    """Make a run directory with its row and its settings."""
    run = root / f"20260101-{number:06}-snake"
    run.mkdir(parents=True)
    settings = {f"setting_{i}": i * number for i in range(30)}
    config = {
        "seed": number % 10,
        "algorithm": {"id": "a2c", "learning_rate": 0.001 * (1 + number % 5)},
        "env": settings,
    }
    (run / "config.yaml").write_text(json.dumps(config))
    row = {"run_id": run.name, "experiment": "snake", "status": "finished", "environment": "snake", "config": config}
    numbers = {"algorithm": "a2c", "seed": number % 10, "seconds": 60.0, "env_steps": number * 1000, "mean_return": 1.0}
    (run / "run.json").write_text(json.dumps(row | numbers | {"started": "2026-01-01T00:00:00Z"}))
    return run


def fill(run: Path) -> None:
    """Write 100,000 episodes and 5,000 updates."""
    noise = np.random.default_rng(0).normal(size=EPISODES).tolist()
    common = {"time": "2026-01-01T00:00:00.000000+00:00", "run_id": run.name}
    write(
        run / "episodes" / "train.jsonl",
        (
            common
            | {"episode_id": i, "world": i % 64, "world_episode": i // 64, "agent": 0, "return": i / 2500 + noise[i]}
            | {"length": 100 + i % 50, "terminated": True, "env_steps": i * 400, "policy_version": i // 20}
            | {"metrics": {"food": float(i // 2500)}}
            for i in range(EPISODES)
        ),
    )
    names = ("mean_return", "mean_episode_length", "policy_loss", "value_loss", "entropy", "gradient_norm")
    write(
        run / "updates" / "train.jsonl",
        (
            common
            | {"policy_version": i, "env_steps": i * 8000, "seconds": i / 20, "env_steps_per_second": 4e5 + i % 100}
            | {"episodes": i * 20, "policy_age": 0.5, "metrics": {"approx_kl": 0.01 + noise[i] / 1000}}
            | dict.fromkeys(names, i / 100 + noise[i])
            for i in range(1, UPDATES + 1)
        ),
    )


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """Start a dashboard that has seen nothing yet, and give its address."""
    command = [str(Path(sys.executable).with_name("rattle")), "dashboard", str(root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            yield json.loads(process.stdout.readline() if process.stdout else "")["url"]
        finally:
            process.terminate()


def server_seconds(root: Path, path: str) -> float:
    """Return how long the server takes for a page that it has not made before."""
    with serving(root) as url:
        urlopen(f"{url}/healthz").read()  # noqa: S310
        began = time.perf_counter()
        urlopen(url + path).read()  # noqa: S310
        return time.perf_counter() - began


def browser_seconds(root: Path, path: str, page: Page, shown: str) -> float:
    """Return how long it takes until a browser without any of the page's files shows it."""
    with serving(root) as url:
        urlopen(f"{url}/healthz").read()  # noqa: S310
        began = time.perf_counter()
        page.goto(url + path)
        page.wait_for_function(shown)
        return time.perf_counter() - began


def main() -> None:
    """Time both views, in a server and a browser that begin anew each time."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        root = Path(folder) / "runs"
        runs = [make_run(root, number) for number in range(RUNS)]
        fill(runs[0])
        views = {
            f"a run of {EPISODES:,} episodes": (f"/run?run={runs[0].name}", CHARTS_ARE_DRAWN, 2),
            f"a folder of {RUNS:,} runs": ("/", f"document.querySelectorAll('tbody tr').length === {RUNS}", 3),
        }
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS.split())
        rows = []
        for name, (path, shown, most) in views.items():
            made = [server_seconds(root, path) for _ in range(REPEATS)]
            seen = [browser_seconds(root, path, browser.new_context().new_page(), shown) for _ in range(REPEATS)]
            figures = (statistics.median(made), max(made), statistics.median(seen), max(seen))
            rows.append((name, *(f"{value:.2f}" for value in figures), f"{most}"))
        browser.close()
    heading = ("first view of", "server, median", "most", "in Chromium, median", "most", "aim, below")
    report("dashboard", "Dashboard", f"Seconds, {REPEATS} times each, nothing cached.", table(heading, rows))


if __name__ == "__main__":
    main()
