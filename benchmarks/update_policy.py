"""UpdatePolicy with a 64 K-sample batch, beside the bare learner step on the same rollout with the same threads."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from measure import report, table

from rattle.envs.philox import derive_seed
from rattle.policies.acting import ActingPolicy
from rattle.policies.file import load_policy
from rattle.services.inference.rollouts import to_rollout
from rattle.services.utils.memory import keep_memory
from rattle.services.utils.protos import training_pb2, training_pb2_grpc
from rattle.trainer.build import build_collector, build_learner
from rattle.trainer.settings import ExperimentSettings
from rattle.trainer.settings_sources import load_settings

WORLDS = 4096  # and 16 ticks: 65,536 samples
REPEATS = 60
OVERRIDES = (f"env.worlds={WORLDS}", "train.steps=null", "train.actors=2", "record.every_episodes=0")


@contextmanager
def training(folder: str) -> Iterator[str]:
    """Run the service and yield its address."""
    changes = [part for override in OVERRIDES for part in ("--set", override)]
    command = [sys.executable, "-m", "rattle.cli", "training", "--port", "0", "--run-dir", f"{folder}/run", *changes]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert process.stdout is not None  # noqa: S101
        yield json.loads(process.stdout.readline())["address"]
    finally:
        process.terminate()
        process.communicate()


def stub_of(address: str) -> training_pb2_grpc.TrainingStub:
    """Return a client that takes policies and rollouts of any size."""
    unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    return training_pb2_grpc.TrainingStub(grpc.insecure_channel(address, unlimited))


def ways(settings: ExperimentSettings, stub: training_pb2_grpc.TrainingStub) -> dict[str, Callable[[], object]]:
    """Return every way to improve a policy by one step on one rollout."""
    first = stub.GetPolicy(training_pb2.GetPolicyRequest())
    policy = load_policy(first.file)
    collector = build_collector(settings)
    acting = ActingPolicy(policy.spec, policy.parameters, derive_seed(settings.seed, "actions"))
    ticks = collector.collect(acting, lambda _: False)
    rollout = collector.buffer.rollout(ticks, policy.version)
    message = to_rollout(collector.buffer, ticks, 0, policy.spec.num_actions)
    message.actor, message.life, message.lineage = "benchmark", "1", first.lineage
    own_request = training_pb2.UpdatePolicyRequest(rollout=message)
    given_request = training_pb2.UpdatePolicyRequest(policy=first.file, rollout=message)
    learner = build_learner(settings, policy.spec)

    def own() -> None:
        own_request.rollout.sequence += 1
        answer = stub.UpdatePolicy(own_request)
        own_request.rollout.policy_version = answer.policy.version

    return {
        "bare learner step": lambda: learner.update(rollout),
        "UpdatePolicy, the service's own policy": own,
        "UpdatePolicy, a policy in the request": lambda: stub.UpdatePolicy(given_request),
    }


def main() -> None:
    """Measure all ways, taking turns."""
    keep_memory()
    settings = load_settings(None, OVERRIDES, {})
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, training(folder) as address:
        todo = ways(settings, stub_of(address))
        for _ in range(REPEATS):
            for name, work in todo.items():
                began = time.perf_counter()
                work()
                seconds.setdefault(name, []).append(time.perf_counter() - began)
    medians = {name: statistics.median(times[3:]) for name, times in seconds.items()}
    floor = next(iter(medians.values()))
    rows = [
        (name, f"{median * 1e3:.1f} ms", f"{min(seconds[name]) * 1e3:.1f} ms", f"{(median / floor - 1) * 100:+.1f} %")
        for name, median in medians.items()
    ]
    report(
        Path(__file__).stem,
        "UpdatePolicy",
        f"One step of the default experiment's learner on a rollout of 16 ticks of {WORLDS:,} worlds (65,536 samples, "
        f"6 MB), with two threads: in the process itself, and by the service, client and service on the same cores. "
        f"Medians of {REPEATS - 3} steps each, taking turns.",
        table(("", "a step, median", "best", "over the bare step"), rows),
    )


if __name__ == "__main__":
    main()
