"""Running the dashboard: what `rattle dashboard` does."""

from __future__ import annotations

from rattle.services.dashboard.app import DashboardService, entrance
from rattle.services.dashboard.source import RunSource
from rattle.services.utils.guard import Guard
from rattle.services.utils.serving import serve
from rattle.services.utils.sockets import listen
from rattle.settings.services import SecuritySection

SERVICE = "rattle dashboard"
_MAX_CONNECTIONS = 512


def run(source: RunSource, host: str, port: int, security: SecuritySection, advertise: str | None = None) -> None:
    """Serve pages over a source until SIGINT or SIGTERM; raises ServiceError when it cannot."""
    guard = Guard(host, security, entrance, advertise)
    with listen(host, port) as listener:
        serve(DashboardService(source, guard), SERVICE, listener, guard, _MAX_CONNECTIONS, {"reads": source.title})
