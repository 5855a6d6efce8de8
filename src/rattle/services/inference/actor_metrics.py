"""What the actors of an Inference service have done, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import get_args

from prometheus_client import Metric
from prometheus_client.registry import Collector

from rattle.services.inference.actor_pool import ActorPoolApi
from rattle.services.inference.actors import State
from rattle.services.utils.measures import DAMAGED_MESSAGES, CounterMeasure, GaugeMeasure
from rattle.wire.checksums import damaged_messages

_ACTOR = ("actor", "policy")

ACTORS = GaugeMeasure("rattle_inference_actors", "actors", "Actors by what they do.", ("state",))
ENV_STEPS = CounterMeasure(
    "rattle_inference_env_steps", "environment steps", "Ticks of all worlds that were played.", _ACTOR
)
ROLLOUTS = CounterMeasure("rattle_inference_rollouts", "rollouts", "Rollouts that were played.", _ACTOR)
RECEIPTS = CounterMeasure(
    "rattle_inference_receipts",
    "rollouts",
    "What the Training service said of rollouts, by verdict.",
    (*_ACTOR, "verdict"),
)
VERSION_PLAYED = GaugeMeasure(
    "rattle_inference_actor_policy_version", "updates", "Policy version played; -1 before the first.", _ACTOR
)


class ActorMetrics(Collector):
    """Reads what the actors report, when somebody asks; actors that were removed are no longer counted."""

    def __init__(self, players: ActorPoolApi) -> None:
        self._players = players

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers of all actors."""
        states, steps, played = ACTORS.family(), ENV_STEPS.family(), ROLLOUTS.family()
        receipts, versions = RECEIPTS.family(), VERSION_PLAYED.family()
        agents = self._players.agents()
        doing = Counter(playing.report.state for playing in agents)
        for state in get_args(State):
            states.add_metric([state], doing[state])
        for playing in agents:
            names, report = [playing.assignment.name, playing.assignment.policy_id], playing.report
            steps.add_metric(names, report.env_steps)
            played.add_metric(names, report.rollouts)
            versions.add_metric(names, -1 if report.policy_version is None else report.policy_version)
            for verdict, number in playing.verdicts.items():
                receipts.add_metric([*names, verdict.lower()], number)
        yield DAMAGED_MESSAGES.family(damaged_messages())
        yield from (states, steps, played, receipts, versions)
