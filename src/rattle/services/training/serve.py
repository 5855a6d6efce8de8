"""Running the Training service: what `rattle training` does."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from rattle.events import context
from rattle.services.training.operating import Operating
from rattle.services.training.service import TrainingService
from rattle.services.training.servicer import TrainingServicer
from rattle.services.utils.grpc_serving import serve
from rattle.services.utils.guard import Guard
from rattle.services.utils.memory import keep_memory
from rattle.services.utils.serving import serving_beside
from rattle.services.utils.sockets import listen
from rattle.services.utils.status_service import StatusService
from rattle.settings.experiment import ExperimentSettings
from rattle.stop_signals import RUN_IS_COMPLETE
from rattle.telemetry.system import watching_system

#: Calls at a time, streams included: each actor has two.
MAX_CALLS = 4096


#: Operators' connections at a time.
_MAX_CONNECTIONS = 256


def run(settings: ExperimentSettings, run_dir: Path | None, *, until_finished: bool = False) -> bool:
    """Train an experiment's policies until SIGINT or SIGTERM, or `until_finished`, and say whether all have finished.

    Raises RattleError when it cannot, and where a run has failed that was to finish.
    """
    keep_memory()
    own = settings.training
    guard = Guard(own.host, settings.security, advertise=own.advertise)
    problems: list[Exception] = []

    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def complete(*_: object) -> None:
        service.is_complete = True
        end()

    def give_up(problem: Exception) -> None:
        problems.append(problem)
        end()

    on_end = end if until_finished else None
    service = TrainingService(settings, run_dir, give_up, run_id=context.run_id or None, on_end=on_end)
    signal.signal(RUN_IS_COMPLETE, complete)
    more = {"mode": own.mode, "policies": list(own.policies)}
    with watching_system(settings.log.system_seconds, run_dir):
        limits = {"max_message_bytes": own.max_message_bytes, "max_calls": MAX_CALLS}
        beside = None if own.http_port is None else _for_operators(service, guard, listen(own.host, own.http_port))
        serve(TrainingServicer(service), "training", own.host, own.port, guard, more, beside=beside, **limits)
    if problems:
        raise problems[0]
    return not until_finished or service.has_finished()


def _for_operators(
    service: TrainingService, guard: Guard, listener: socket.socket
) -> Callable[[], AbstractAsyncContextManager[str]]:
    """Return what serves status, health and metrics while it is entered."""
    return lambda: serving_beside(StatusService(Operating(service), guard), listener, guard, _MAX_CONNECTIONS)
