"""How long a new policy takes from the update that made it to every actor that watches, while services train."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from measure import report, table

from rattle.policies.file import StoredPolicy
from rattle.services.inference.training_link import PolicyFeed, TrainingLink

WATCHERS = (1, 8, 32)
SECONDS = 15.0
_LONGEST_MESSAGE = 2**28


@contextmanager
def service(*arguments: str) -> Iterator[dict[str, Any]]:
    """Run a service and yield its first line."""
    command = [sys.executable, "-P", "-m", "rattle.cli", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout is not None  # noqa: S101
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def watch(address: str, watchers: int) -> dict[int, list[float]]:
    """Return when each version was there, ready to play, at each of some watchers, a connection each."""
    arrived: dict[int, list[float]] = defaultdict(list)
    lock = threading.Lock()

    def came(_policy_id: str, policy: StoredPolicy) -> None:
        now = time.time()
        with lock:
            arrived[policy.version].append(now)

    links = [TrainingLink(address, _LONGEST_MESSAGE) for _ in range(watchers)]
    feeds = [PolicyFeed(link, "main", came) for link in links]
    for feed in feeds:
        feed.start()
    time.sleep(SECONDS)
    for feed in feeds:
        feed.stop()
    for link in links:
        link.close()
    return arrived


def measure(watchers: int) -> tuple[str, ...]:
    """Return a row of the table: while one actor plays the default experiment, others watch."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        env = stack.enter_context(service("env"))
        training = stack.enter_context(service("training", "--run-dir", folder, "--set", "train.steps=null"))
        address = training["address"]
        stack.enter_context(service("inference", "--grpc-port", "0", "--training", address, "--env", env["url"]))
        arrived = watch(address, watchers)
        stack.close()
        rows = [json.loads(line) for line in (Path(folder) / "updates" / "train.jsonl").read_text().splitlines()]
    made = {row["policy_version"]: datetime.fromisoformat(row["time"]).timestamp() for row in rows}
    last = [1e3 * (max(times) - made[version]) for version, times in arrived.items() if version in made]
    missed = sum(watchers - len(times) for version, times in arrived.items() if version in made)
    figures = (np.median(last), np.percentile(last, 99), max(last))
    return (str(watchers), f"{len(last):,}", *(f"{figure:.1f} ms" for figure in figures), str(missed))


def main() -> None:
    """Measure with more and more watchers."""
    report(
        "policy_latency",
        "From an update to every actor",
        f"Env, Training and Inference services with the default experiment on the same cores, for {SECONDS:.0f} "
        "seconds; beside the actor that plays, others watch the policy, each on a connection of its own. Counted "
        "from the time in the update's row, which is written as the policy goes out, within milliseconds, to the last "
        "watcher that has read and checked the policy. A slow watcher gets the newest policy and misses those between.",
        table(
            ("watchers", "updates", "median of the last", "99th percentile", "most", "missed"), map(measure, WATCHERS)
        ),
    )


if __name__ == "__main__":
    main()
