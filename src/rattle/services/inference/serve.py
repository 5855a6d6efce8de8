"""Running the Inference service: what `rattle inference` does."""

from __future__ import annotations

from rattle.rollouts.complete import complete_for_actors
from rattle.services.inference.actor_metrics import ActorMetrics
from rattle.services.inference.actor_pool import ActorPool
from rattle.services.inference.app import InferenceService
from rattle.services.inference.control_routes import ControlRoutes
from rattle.services.inference.lockstep_players import LockstepPlayers
from rattle.services.inference.serving.models import Models
from rattle.services.inference.watched_policy import WatchedPolicy
from rattle.services.utils.guard import Guard
from rattle.services.utils.serving import serve
from rattle.services.utils.sockets import listen
from rattle.settings.experiment import ExperimentSettings
from rattle.telemetry.system import watching_system

SERVICE = "inference"


def run(settings: ExperimentSettings, policy: str | None) -> None:
    """Play an experiment's environment, or serve the policy of a run or file, until SIGINT or SIGTERM.

    Raises RattleError when it cannot.
    """
    own, models = settings.inference, Models()
    guard = Guard(own.host, settings.security, advertise=own.advertise)
    if policy is None:
        if own.api == "vector":
            settings = complete_for_actors(settings, own.envs[0])
        kind = LockstepPlayers if settings.sync.mode == "lockstep" else ActorPool
        players = kind(settings, models.publish)
        service = InferenceService(own, models, players, guard, ControlRoutes(players))
        service.metrics.registry.register(ActorMetrics(players))
    else:
        service = InferenceService(own, models, WatchedPolicy(policy, models.publish), guard)
    with watching_system(settings.log.system_seconds):
        serve(service, SERVICE, listen(own.host, own.port), guard, own.max_connections, service.hello)
