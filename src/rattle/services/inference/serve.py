"""Running the Inference service: what `rattle inference` does."""

from __future__ import annotations

from rattle.services.inference.app import InferenceService, PolicySource
from rattle.services.inference.players import Players
from rattle.services.inference.policy_file import PolicyFile
from rattle.services.inference.serving.models import Models
from rattle.services.utils.serving import serve
from rattle.services.utils.sockets import listen
from rattle.trainer.settings import ExperimentSettings

SERVICE = "inference"


def run(settings: ExperimentSettings, policy: str | None) -> None:
    """Play an experiment's environment, or serve the policy of a run or file, until SIGINT or SIGTERM.

    Raises RattleError when it cannot.
    """
    own, models = settings.inference, Models()
    source: PolicySource = Players(settings, models.publish) if policy is None else PolicyFile(policy, models.publish)
    service = InferenceService(own, models, source)
    serve(service, SERVICE, listen(own.host, own.port), own.max_connections, service.hello)
