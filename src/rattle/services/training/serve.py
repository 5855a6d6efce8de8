"""Running the Training service: what `rattle training` does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from rattle.services.training.service import TrainingService
from rattle.services.training.servicer import TrainingServicer
from rattle.services.utils.grpc_serving import serve
from rattle.services.utils.guard import Guard
from rattle.services.utils.memory import keep_memory
from rattle.settings.experiment import ExperimentSettings
from rattle.telemetry.system import watching_system

#: Calls at a time, streams included: each actor has two.
MAX_CALLS = 4096


def run(settings: ExperimentSettings, run_dir: Path | None) -> None:
    """Train an experiment's policies until SIGINT or SIGTERM; raises RattleError when it cannot."""
    keep_memory()
    own = settings.training
    guard = Guard(own.host, settings.security, advertise=own.advertise)
    problems: list[Exception] = []

    def give_up(problem: Exception) -> None:
        problems.append(problem)
        os.kill(os.getpid(), signal.SIGTERM)

    face = TrainingServicer(TrainingService(settings, run_dir, give_up))
    more = {"mode": own.mode, "policies": list(own.policies)}
    with watching_system(settings.log.system_seconds, run_dir):
        limits = {"max_message_bytes": own.max_message_bytes, "max_calls": MAX_CALLS}
        serve(face, "training", own.host, own.port, guard, more, **limits)
    if problems:
        raise problems[0]
