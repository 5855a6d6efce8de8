"""Running the Env service: what `rattle env` does."""

from __future__ import annotations

from rattle.services.env.app import SERVICE, EnvService
from rattle.services.utils.serving import listen, serve
from rattle.trainer.settings import ExperimentSettings


def run(settings: ExperimentSettings) -> None:
    """Serve an experiment's environment until SIGINT or SIGTERM; raises RattleError when it cannot."""
    own = settings.env_service
    service = EnvService(settings)
    listener = listen(own.host, own.port)
    more = {"environment": settings.env.id}
    serve(service, SERVICE, listener, own.max_connections, more, max_message_bytes=own.max_body_bytes)
