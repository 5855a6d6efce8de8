"""How policies fare, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import get_args

from prometheus_client import Metric

from rattle.runs.progress import Status
from rattle.services.training.learning_loop import LearningLoop
from rattle.services.training.rollout_batcher import Verdict
from rattle.services.utils.measures import DAMAGED_MESSAGES, CounterMeasure, GaugeMeasure
from rattle.wire.checksums import damaged_messages

_POLICY = ("policy",)

UPDATES = CounterMeasure("rattle_training_updates", "updates", "Updates that were made.", _POLICY)
ENV_STEPS = CounterMeasure(
    "rattle_training_env_steps", "environment steps", "Ticks of all worlds that were learnt from.", _POLICY
)
EPISODES = CounterMeasure(
    "rattle_training_episodes", "episodes", "Episodes that ended in what was learnt from.", _POLICY
)
ROLLOUTS = CounterMeasure(
    "rattle_training_rollouts", "rollouts", "Rollouts that arrived, by verdict.", (*_POLICY, "verdict")
)
WAIT_SECONDS = CounterMeasure(
    "rattle_training_wait_seconds", "seconds", "Time in which no update was due: rollouts were waited for.", _POLICY
)
POLICY_VERSION = GaugeMeasure("rattle_training_policy_version", "updates", "Newest policy version.", _POLICY)
POLICY_AGE = GaugeMeasure(
    "rattle_training_policy_age", "updates", "Age of the rollouts of the last update, their mean.", _POLICY
)
MAX_POLICY_AGE = GaugeMeasure(
    "rattle_training_max_policy_age", "updates", "Age of the oldest rollout of the last update.", _POLICY
)
WAITING_ROLLOUTS = GaugeMeasure(
    "rattle_training_waiting_rollouts", "rollouts", "Rollouts that wait for an update.", _POLICY
)
MEAN_RETURN = GaugeMeasure("rattle_training_mean_return", "reward", "Mean return of the latest episodes.", _POLICY)
RUNS = GaugeMeasure("rattle_training_runs", "runs", "Runs by how they are.", ("status",))


def families(loops: Mapping[str, LearningLoop]) -> Iterator[Metric]:
    """Yield the numbers of all policies; what is counted, is counted from the start of the service."""
    yield DAMAGED_MESSAGES.family(damaged_messages())
    runs, standing = RUNS.family(), Counter(loop.status for loop in loops.values())
    for status in get_args(Status):
        runs.add_metric([status], standing[status])
    yield runs
    rollouts, mean_return = ROLLOUTS.family(), MEAN_RETURN.family()
    numbers = {
        measure: measure.family()
        for measure in (
            *(UPDATES, ENV_STEPS, EPISODES, WAIT_SECONDS),
            *(POLICY_VERSION, POLICY_AGE, MAX_POLICY_AGE, WAITING_ROLLOUTS),
        )
    }
    for policy, loop in loops.items():
        for measure, value in _numbers(loop).items():
            numbers[measure].add_metric([policy], value)
        for verdict in Verdict:
            rollouts.add_metric([policy, verdict.value.lower()], loop.intake.counts[verdict])
        if loop.run.standing.mean_return is not None:
            mean_return.add_metric([policy], loop.run.standing.mean_return)
    yield from (*numbers.values(), rollouts, mean_return)


def _numbers(loop: LearningLoop) -> dict[CounterMeasure | GaugeMeasure, float]:
    now, before = loop.run.standing, loop.stood
    return {
        UPDATES: loop.newest.version - loop.first_version,
        ENV_STEPS: now.env_steps - before.env_steps,
        EPISODES: now.episodes - before.episodes,
        WAIT_SECONDS: loop.waited_seconds,
        POLICY_VERSION: loop.newest.version,
        POLICY_AGE: now.policy_age,
        MAX_POLICY_AGE: now.max_policy_age,
        WAITING_ROLLOUTS: len(loop.intake),
    }
