"""Running the ingest service: what `rattle ingest` does."""

from __future__ import annotations

from rattle.services.ingest.consumer import Consumer
from rattle.services.utils.guard import Guard
from rattle.services.utils.serving import serve
from rattle.services.utils.sockets import listen
from rattle.services.utils.status_service import StatusService
from rattle.settings.experiment import ExperimentSettings
from rattle.telemetry.broker import Broker
from rattle.telemetry.system import watching_system

SERVICE = "ingest"
#: Operators' connections at a time.
_MAX_CONNECTIONS = 256


def run(settings: ExperimentSettings, broker: Broker, store_url: str) -> None:
    """Take rows from a broker into a store until SIGINT or SIGTERM; raises RattleError when it cannot."""
    own = settings.ingest
    guard = Guard(own.host, settings.security, advertise=own.advertise)
    with listen(own.host, own.port) as listener, watching_system(settings.log.system_seconds):
        serve(StatusService(Consumer(broker, store_url, own), guard), SERVICE, listener, guard, _MAX_CONNECTIONS, {})
