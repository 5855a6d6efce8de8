"""Running the Env service: what `rattle env` does."""

from __future__ import annotations

from typing import Any

from rattle.services.env.app import SERVICE, EnvService
from rattle.services.env.clocks import SyncClock
from rattle.services.utils.guard import Guard
from rattle.services.utils.serving import serve
from rattle.services.utils.sockets import ServiceError, listen
from rattle.settings.experiment import ExperimentSettings
from rattle.telemetry.system import watching_system


def run(settings: ExperimentSettings) -> None:
    """Serve an experiment's environment until SIGINT or SIGTERM; raises RattleError when it cannot."""
    own = settings.env_service
    if settings.env.url is not None:
        raise ServiceError(f"env.url is {settings.env.url}: this service plays its environment itself, leave it out")
    guard = Guard(own.host, settings.security, advertise=own.advertise)
    service = EnvService(settings)
    service.metrics.registry.register(guard.refused)
    listener = listen(own.host, own.port)
    more: dict[str, Any] = {"environment": settings.env.id}
    if service.agents is not None and isinstance(service.agents.clock, SyncClock):
        more["sync_port"] = service.agents.clock.port
    with watching_system(settings.log.system_seconds):
        serve(service, SERVICE, listener, guard, own.max_connections, more, max_message_bytes=own.max_body_bytes)
