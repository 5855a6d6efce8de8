"""A long run's episodes: how small they become, what packing costs, and how soon a question is answered.

Ten million episodes of the default experiment, as text and as the Parquet files that a run turns them into.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from measure import median_seconds, report, table

from rattle.analytics.query import query
from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.table_writer import PART_BYTES, TableWriter, pack_parts

EPISODES = 10_000_000
START = datetime(2026, 1, 1, tzinfo=UTC)
UPDATE = 700  # episodes that end in an update
QUESTIONS = {
    "how many": "SELECT count() FROM episodes",
    "learning curve of food": "SELECT intDiv(env_steps, 1000000) m, avg(food) FROM episodes GROUP BY m ORDER BY m",
    "best by return": "SELECT episode_id, return, length FROM episodes ORDER BY return DESC LIMIT 10",
    "throughput by minute": "SELECT toStartOfMinute(time) t, count() FROM episodes GROUP BY t ORDER BY t",
}


def write(run: RunDirectory, episodes: int) -> tuple[int, float, float]:
    """Write and pack episodes as a run does; return the bytes of text, and seconds of writing and of packing."""
    random = np.random.default_rng(0)
    folder, wrote, packing = run.table("episodes"), 0.0, 0.0
    with closing(TableWriter(folder, "train")) as writer:
        for first in range(0, episodes, UPDATE):
            count = min(UPDATE, episodes - first)
            food, length, world = (
                random.poisson(20, count),
                random.integers(10, 400, count),
                random.integers(0, 1024, count),
            )
            common = {
                "time": (START + timedelta(milliseconds=first)).isoformat(timespec="microseconds"),
                "run_id": "20261129-120000-snake-s0-abcd",
                "env_steps": first * 120,
                "policy_version": first // UPDATE,
            }
            rows = [
                {
                    **common,
                    "episode_id": first + n,
                    "world": int(world[n]),
                    "world_episode": first // 1024,
                    "agent": 0,
                    "return": float(food[n] - 1),
                    "length": int(length[n]),
                    "terminated": bool(n % 50),
                    "metrics": {"food": int(food[n])},
                }
                for n in range(count)
            ]
            began = time.perf_counter()
            writer.write(rows)
            length_now = writer.flush()
            writer.close_part()
            wrote += time.perf_counter() - began
            if first // UPDATE % 200 == 0:
                began = time.perf_counter()
                pack_parts(folder, "train", "episodes", length_now)
                packing += time.perf_counter() - began
        pack_parts(folder, "train", "episodes", length_now)
        pack_parts(folder, "train", "episodes", length_now)
    return length_now, wrote, packing


def main() -> None:
    """Write the table, ask, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    episodes = parser.parse_args().episodes
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder))
        run.config.touch()
        text, wrote, packing = write(run, episodes)
        stored = sum(path.stat().st_size for path in run.table("episodes").iterdir())
        times = {name: median_seconds(lambda: query(sql, [run]), 3) for name, sql in QUESTIONS.items()}  # noqa: B023
    report(
        "long_tables",
        "Episodes of a long run",
        f"{episodes:,} episodes are {text / 1e9:.2f} GB of text and {stored / 1e9:.3f} GB on the disk, "
        f"{text / stored:.0f} times less; parts are packed when they have {PART_BYTES >> 20} MiB. To write the text "
        f"took {wrote:.1f} s, to pack it {packing:.1f} s, {packing / episodes * 1e6:.2f} microseconds an episode, in "
        "the thread that stores checkpoints.",
        table(["question", "answered in"], [[name, f"{seconds:.2f} s"] for name, seconds in times.items()]),
    )


if __name__ == "__main__":
    main()
