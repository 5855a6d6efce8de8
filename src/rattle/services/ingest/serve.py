"""Running the ingest service: what `rattle ingest` does."""

from __future__ import annotations

from rattle.services.ingest.consumer import Consumer
from rattle.services.utils.serving import serve
from rattle.services.utils.sockets import listen
from rattle.services.utils.status_service import StatusService
from rattle.settings.services import IngestSection
from rattle.telemetry.broker import Broker

SERVICE = "ingest"
#: Operators' connections at a time.
_MAX_CONNECTIONS = 256


def run(own: IngestSection, broker: Broker, store_url: str) -> None:
    """Take rows from a broker into a store until SIGINT or SIGTERM; raises RattleError when it cannot."""
    with listen(own.host, own.port) as listener:
        serve(StatusService(Consumer(broker, store_url, own)), SERVICE, listener, _MAX_CONNECTIONS, {})
