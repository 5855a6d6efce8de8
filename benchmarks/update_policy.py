"""UpdatePolicy with a 64 K-sample batch, beside the bare learner step on the same rollout with the same threads.

A bare endpoint that takes the same message and answers one of the same size says what gRPC alone costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
from measure import report, table

from rattle.envs.seeds import derive_seed
from rattle.policies.acting import ActingPolicy
from rattle.policies.file import load_policy
from rattle.samples.rollout import as_tensors
from rattle.services.inference.rollouts import to_message
from rattle.services.utils.grpc_serving import bind, make_server
from rattle.services.utils.guard import Guard
from rattle.services.utils.memory import keep_memory
from rattle.services.utils.protos import training_pb2, training_pb2_grpc
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.services import SecuritySection
from rattle.settings.sources import load_settings
from rattle.trainer.build import build_collector, build_learner

WORLDS = 4096  # and 16 ticks: 65,536 samples
REPEATS = 100
OVERRIDES = (f"env.worlds={WORLDS}", "train.steps=null", "train.actors=2", "record.every_episodes=0")

STEP, ENDPOINT = "bare learner step", "bare endpoint, which learns nothing"


class Bare(training_pb2_grpc.TrainingServicer):
    """Answers at once."""

    async def UpdatePolicy(self, request: Any, context: Any) -> training_pb2.UpdatePolicyResponse:  # noqa: N802
        """Answer as many bytes as a policy has."""
        return training_pb2.UpdatePolicyResponse(policy=training_pb2.Policy(file=request.policy))


async def bare() -> None:
    """Serve the floor."""
    keep_memory()
    server = make_server(2**28, 100, Guard("127.0.0.1", SecuritySection()))
    address = bind(server, "127.0.0.1", 0)
    training_pb2_grpc.add_TrainingServicer_to_server(Bare(), server)
    await server.start()
    print(json.dumps({"address": address}), flush=True)
    await server.wait_for_termination()


@contextmanager
def serving(*command: str) -> Iterator[training_pb2_grpc.TrainingStub]:
    """Run a service and yield a client of it that takes messages of any size."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert process.stdout is not None  # noqa: S101
        address = json.loads(process.stdout.readline())["address"]
        unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        with grpc.insecure_channel(address, unlimited) as channel:
            yield training_pb2_grpc.TrainingStub(channel)
    finally:
        process.terminate()
        process.communicate()


def ways(
    settings: ExperimentSettings, stub: training_pb2_grpc.TrainingStub, floor: training_pb2_grpc.TrainingStub
) -> dict[str, Callable[[], object]]:
    """Return every way to improve a policy by one step on one rollout, and the cost of asking for it."""
    first = stub.GetPolicy(training_pb2.GetPolicyRequest())
    policy = load_policy(first.file)
    collector = build_collector(settings)
    acting = ActingPolicy(policy.spec, policy.parameters, derive_seed(settings.seed, "actions"))
    played = collector.collect(acting, policy.version, lambda _: False)
    rollout = as_tensors(played)
    learner = build_learner(settings, policy.spec)
    message = to_message(played, 0, policy.spec.action)
    message.actor, message.life, message.lineage = "benchmark", "1", first.lineage
    own = training_pb2.UpdatePolicyRequest(rollout=message)
    for name in ("metrics", "world_episode"):  # what is learnt from does not need them
        message.ClearField(name)
    given = training_pb2.UpdatePolicyRequest(policy=first.file, rollout=message)

    def improve_own() -> None:
        own.rollout.sequence += 1
        own.rollout.policy_version = stub.UpdatePolicy(own).policy.version

    return {
        STEP: lambda: learner.update(rollout),
        ENDPOINT: lambda: floor.UpdatePolicy(given),
        "UpdatePolicy, a policy in the request": lambda: stub.UpdatePolicy(given),
        "UpdatePolicy, the service's own policy": improve_own,
    }


def measure() -> None:
    """Measure all ways, taking turns."""
    keep_memory()
    settings = load_settings(None, OVERRIDES, {})
    seconds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        changes = [part for override in OVERRIDES for part in ("--set", override)]
        service = ("-P", "-m", "rattle.cli", "training", "--port", "0", "--run-dir", f"{folder}/run", *changes)
        stubs = [stack.enter_context(serving(*command)) for command in (service, (__file__, "--bare"))]
        todo = ways(settings, stubs[0], stubs[1])
        for _ in range(REPEATS):
            for name, work in todo.items():
                began = time.perf_counter()
                work()
                seconds.setdefault(name, []).append(time.perf_counter() - began)
    say(seconds)


def say(seconds: dict[str, list[float]]) -> None:
    """Report the medians, and what the service adds to the bare step: as it is, and besides the bare endpoint."""
    medians = {name: statistics.median(times[5:]) for name, times in seconds.items()}
    rows = []
    for name, median in medians.items():
        over = ("", "")
        if name not in (STEP, ENDPOINT):
            added = median - medians[STEP]
            over = tuple(f"{part / medians[STEP] * 100:+.1f} %" for part in (added, added - medians[ENDPOINT]))
        rows.append((name, f"{median * 1e3:.1f} ms", f"{min(seconds[name]) * 1e3:.1f} ms", *over))
    report(
        Path(__file__).stem,
        "UpdatePolicy",
        f"One step of the default experiment's learner on a rollout of 16 ticks of {WORLDS:,} worlds (65,536 samples, "
        f"5 MB), with two threads: in the process itself, and by the service, client and service on the same cores. "
        f"Medians of {REPEATS - 5} steps each, taking turns. The bare endpoint takes the same message over gRPC and "
        "answers one of the same size.",
        table(("", "median", "best", "added to the bare step", "besides the bare endpoint"), rows),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bare", action="store_true", help="serve the floor; used by the benchmark itself")
    if parser.parse_args().bare:
        asyncio.run(bare())
    else:
        measure()
