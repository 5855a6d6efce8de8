"""Training whose rows and logs are all published to a RabbitMQ on the same machine, beside training without.

The two take turns, a few seconds each, so that a machine that is busy with something else disturbs both alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from measure import report, table

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the tests' private node
from tests.rabbitmq import RabbitMQ

from rattle.runs.new_runs import name_run, store_beginning
from rattle.runs.run_clock import RunLimits
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import load_settings
from rattle.trainer.display import JsonDisplay
from rattle.trainer.loop import TrainingRun, train_together

SECONDS, ROUNDS = 5.0, 8


class QuietDisplay(JsonDisplay):
    """Does all that the JSON display does, but keeps the lines from the screen."""

    @staticmethod
    def _print(content: dict[str, Any]) -> None:
        str(content)


def train(settings: ExperimentSettings, seconds: float) -> float:
    """Train for some seconds, and return the environment steps of a second."""
    with tempfile.TemporaryDirectory() as folder:
        directory, run_id, environments = name_run(settings, Path(folder))
        [environment] = environments.values()
        store_beginning(directory, run_id, settings, environment)
        run = TrainingRun(settings, directory, run_id)
        end_publishing = settings.telemetry.publish_logs(directory.outbox)
        run.start()
        [summary] = train_together([run], RunLimits(None, seconds), QuietDisplay(), lambda: False)
        run.close()
        end_publishing()
    return summary.env_steps_per_second


def main() -> None:
    """Let the two take turns, and report the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each turn")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    with closing(RabbitMQ(Path(tempfile.mkdtemp(prefix="rattle-rabbitmq-")))) as broker:
        broker.start()
        url = broker.url().replace(f":{broker.gate.port}/", f":{broker.direct_port}/")
        ways = {"without": load_settings(None), "published": load_settings(None, [f"telemetry.broker={url}"])}
        train(ways["without"], 1.0)
        speeds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(arguments.rounds):
            for way in ways if turn % 2 == 0 else reversed(ways):
                speeds[way].append(train(ways[way], arguments.seconds))
    ratios = [published / without for without, published in zip(speeds["without"], speeds["published"], strict=True)]
    rows = [[way, f"{statistics.median(of):,.0f}", f"{min(of):,.0f} to {max(of):,.0f}"] for way, of in speeds.items()]
    report(
        "published_training",
        "Training with all rows published",
        f"Turns of {arguments.seconds:g} s, {arguments.rounds} of each. Published training reaches "
        f"{statistics.median(ratios):.1%} of the speed of the turn beside it (median of {len(ratios)}); "
        "the broker runs on the same machine.",
        table(["rows", "env steps/s", "range"], rows),
    )


if __name__ == "__main__":
    main()
