"""Running the Sync service: what `rattle sync` does."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Protocol

from rattle.clients.keys import sync_key
from rattle.services.sync.history import LockstepHistory
from rattle.services.sync.lockstep import Lockstep
from rattle.services.sync.pace import Pace
from rattle.services.utils.guard import Guard
from rattle.services.utils.serving import serve
from rattle.services.utils.sockets import ServiceError, address_of, listen
from rattle.services.utils.status_service import Operated, StatusService
from rattle.settings.experiment import ExperimentSettings
from rattle.telemetry.system import watching_system

SERVICE = "sync"


class Leading(Operated, Protocol):
    """A mode: what tells the others when to tick."""

    failure: ServiceError | None  # why it cannot go on


#: Operators' connections at a time.
_MAX_CONNECTIONS = 256


def run(settings: ExperimentSettings, history: Path | None) -> None:
    """Lead an experiment's members, or tell participants the time, until SIGINT or SIGTERM.

    In mode lockstep, phases that are complete are written to `history`. Raises RattleError when it cannot.
    """
    own = settings.sync
    guard = Guard(own.host, settings.security, advertise=own.advertise)
    with listen(own.host, own.port, socket.SOCK_DGRAM) as members, listen(own.host, own.http_port) as listener:
        leading = _leading(settings, members, history)
        more = {
            "address": address_of(guard.name or members.getsockname()[0], members.getsockname()[1]),
            "mode": own.mode,
        }
        with watching_system(settings.log.system_seconds):
            serve(StatusService(leading, guard), SERVICE, listener, guard, _MAX_CONNECTIONS, more)
    if leading.failure is not None:
        raise leading.failure


def _leading(settings: ExperimentSettings, members: socket.socket, history: Path | None) -> Leading:
    own = settings.sync
    key = sync_key(own.key_file, settings.security.token_file)
    if own.mode == "pace":
        # Nobody answers what has happened, so there is no history. The port is held all the same: two services at one
        # address would be one too many.
        return Pace(own, key)
    return Lockstep(own, key, members, None if history is None else LockstepHistory(history))
