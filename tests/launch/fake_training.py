"""A learner that learns nothing, at a steady pace: for the launcher it looks like the Training service."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np

from rattle.analytics.run_directory import RunDirectory
from rattle.analytics.writer import write_atomically
from rattle.runs.checkpoint import Checkpoint, checkpoint_file, drop_checkpoints, dump_checkpoint
from rattle.runs.progress import Status, Summary
from rattle.runs.run_tables import read_run_row, run_row, write_run_row
from rattle.services.utils.protos import training_pb2, training_pb2_grpc
from rattle.settings.sources import load_settings
from rattle.stop_signals import RUN_IS_COMPLETE

STEPS_PER_SECOND = 100_000


class FakeTraining(training_pb2_grpc.TrainingServicer):
    """Counts steps with the clock, writes run.json, and fails or stands still where it is told to."""

    def __init__(self, config: Path, overrides: list[str], *, fails: bool, stalls: bool) -> None:
        self._settings = load_settings(config, overrides)
        self._directory = RunDirectory(config.parent)
        row = read_run_row(self._directory)
        self._before = int(row["env_steps"])
        self._summary = replace(
            Summary.of_nothing_yet(row["run_id"], str(config.parent)), policy_sha256="00" * 32, mean_return=1.5
        )
        self._fails, self._stalls = fails, stalls
        self._began = time.monotonic()
        self._asked = False
        self._ended = threading.Event()
        self._storing = threading.Lock()

    def store(self, status: Status) -> None:
        """Write where the run stands: when it is asked, and at its end, which may be at the same time."""
        with self._storing:
            self._store(status)

    def _store(self, status: Status) -> None:
        if not self._ended.is_set():
            now = self._now(status)
            write_run_row(self._directory, run_row(self._settings, now, "2026-01-01T00:00:00+00:00", {}))
            checkpoint = Checkpoint({"learner/version": np.array(now.updates)}, {})
            path = checkpoint_file(self._directory, now.updates)
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, dump_checkpoint(checkpoint, now.run_id, now.updates))
            drop_checkpoints(self._directory, now.run_id, keep=1)

    def _now(self, status: Status) -> Summary:
        seconds = time.monotonic() - self._began
        steps = self._before + int(seconds * STEPS_PER_SECOND)
        most = self._settings.train.steps
        if self._settings.sync.mode == "lockstep":  # what is learnt depends on the ticks alone, not on the clock
            steps = most = 5000
        if self._stalls:
            most = 20_000
        return replace(
            self._summary,
            status=status,
            env_steps=steps if most is None else min(steps, most),
            seconds=seconds,
            updates=(steps if most is None else min(steps, most)) // 1000,
            policy_version=steps // 1000,
        )

    def GetStatus(self, request: training_pb2.GetStatusRequest, context: object) -> training_pb2.Status:  # noqa: N802
        if not self._asked:  # it begins to count when somebody looks, however busy the machine is
            self._asked, self._began = True, time.monotonic()
        now = self._now("running")
        status = training_pb2.Status(lineage="fake", mode="async")
        over = now.env_steps == self._settings.train.steps
        over = over or (self._settings.train.seconds is not None and now.seconds >= self._settings.train.seconds)
        kind: Status = "finished" if over else "failed" if self._fails and now.env_steps > 50_000 else "running"
        self.store(kind)  # also while it goes on: it may be killed
        if kind != "running":
            self._ended.set()
        for name in self._settings.training.policies:
            policy = status.policies.add(policy_id=name, status=kind, env_steps=now.env_steps, policy_age=0.5)
            policy.env_steps_per_second, policy.mean_return = STEPS_PER_SECOND, now.env_steps / 1e5
            policy.policy_version, policy.seconds = now.policy_version, now.seconds
            policy.error = "loss is nan in update 3" if kind == "failed" else ""
        return status


def serve(config: Path, arguments: list[str], ways: list[str]) -> None:
    overrides = [arguments[at + 1] for at, argument in enumerate(arguments) if argument == "--set"]
    fake = FakeTraining(config, overrides, fails="fail" in ways, stalls="stall" in ways)
    server = grpc.server(ThreadPoolExecutor(2))
    training_pb2_grpc.add_TrainingServicer_to_server(fake, server)
    port = server.add_insecure_port(f"127.0.0.1:{arguments[arguments.index('--port') + 1]}")
    server.start()
    stopped = threading.Event()
    told = set[int]()

    def stop(number: int, _frame: object) -> None:
        told.add(number)
        stopped.set()

    for number in (signal.SIGTERM, RUN_IS_COMPLETE):
        signal.signal(number, stop)
    fake.store("running")
    sys.stdout.write(json.dumps({"service": "training", "address": f"127.0.0.1:{port}"}) + "\n")
    sys.stdout.flush()
    stopped.wait()
    server.stop(0)
    fake.store("finished" if RUN_IS_COMPLETE in told else "interrupted")
