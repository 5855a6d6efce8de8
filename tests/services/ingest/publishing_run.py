"""A process that publishes the rows of a run as a trainer does, and that may be killed and resumed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rattle.analytics.run_directory import RunDirectory
from rattle.telemetry.broker import find_broker
from rattle.telemetry.broker_sink import BrokerSink
from rattle.telemetry.sinks import UPDATE
from tests.analytics.build import episode_row, update_row

UPDATES, EPISODES, LINES = 100, 2000, 20  # episodes and lines of the log an update
UPDATES_OF_A_CHECKPOINT = 4


def go_on(folder: Path, update: int) -> None:
    """Let the process go on after the checkpoint of an update, for which it waits."""
    (folder / f"after-{update}").touch()


def main() -> None:
    """Publish what follows an update of a folder's run; says in lines on stdout which updates have a checkpoint."""
    folder, life, after = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    broker = find_broker(None)
    assert broker is not None
    sink = BrokerSink(broker, folder / "outbox", 2**30, service="train", experiment="snake", run_id="r")
    sink.cut_back({UPDATE: after})
    directory = RunDirectory(Path("r"))
    line = {"time": "2026-01-02T03:04:05Z", "level": "INFO", "event": "e", "run_id": "r", "service": "train"}
    for version in range(after + 1, UPDATES + 1):
        first = (version - 1) * EPISODES
        episodes = [episode_row(directory, first + number) for number in range(EPISODES)]
        sink.append("episodes", episodes, version)
        sink.append("updates", [update_row(directory, version, entropy=float(life))], version)
        sink.append("logs", [line] * LINES)
        if version % UPDATES_OF_A_CHECKPOINT == 0:
            sink.mark()[1]()
            sys.stdout.write(f"{version}\n")
            sys.stdout.flush()
            while not (folder / f"after-{version}").exists():
                time.sleep(0.01)
    while sink.waiting:
        time.sleep(0.05)
    sink.close()
