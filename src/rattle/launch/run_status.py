"""Where the policies of a run stand, from what Training services say of themselves, and the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rattle.runs.progress import Progress, Summary
from rattle.runs.run_clock import RunLimits, fraction_done

if TYPE_CHECKING:
    from rattle.launch.ticking import Stillness
    from rattle.services.utils.protos.training_pb2 import PolicyStatus, Status


@dataclass(frozen=True, kw_only=True)
class ChaosSummary(Summary):
    """The result of a run whose services were killed on purpose."""

    kills: int
    restarts: int


class RunStatus:
    """The newest status of every policy, and since when each Training service has been learning; has no clock."""

    def __init__(self, policies: Sequence[str], limits: RunLimits) -> None:
        self._policies = policies
        self._limits = limits
        self._first_steps: dict[str, int] = {}  # by policy: steps before this command
        self._began: dict[str, float] = {}  # by service: when its first progress was seen
        self.statuses: dict[str, PolicyStatus] = {}
        self._learning: dict[str, PolicyStatus] = {}  # the same, less those of a service that has yet to learn anything

    def take(self, service: str, status: Status, now: float) -> None:
        """Take the answer of a Training service."""
        for policy in status.policies:
            if policy.status == "waiting":  # its run has not been opened yet
                continue
            self.statuses[policy.policy_id] = policy
            if policy.env_steps_per_second:
                self._learning[policy.policy_id] = policy
            if policy.env_steps > self._first_steps.setdefault(policy.policy_id, policy.env_steps):
                self._began.setdefault(service, now)

    def row(self, policy_id: str) -> dict[str, Any]:
        """Return what a policy's row of `runs` says of where it stands; nothing before that is known."""
        if (status := self.statuses.get(policy_id)) is None:
            return {}
        return {
            "status": status.status,
            "seconds": status.seconds,
            "env_steps": status.env_steps,
            "env_steps_per_second": status.env_steps / status.seconds if status.seconds else 0.0,
            "updates": status.policy_version,
            "episodes": status.episodes,
            "mean_return": status.mean_return if status.HasField("mean_return") else None,
            "mean_episode_length": status.mean_episode_length if status.HasField("mean_episode_length") else None,
            "policy_sha256": status.policy_sha256,
        }

    @property
    def ended(self) -> bool:
        """Whether nothing more is learnt by any policy."""
        return all(
            name in self.statuses and self.statuses[name].status in ("finished", "failed") for name in self._policies
        )

    @property
    def has_its_steps(self) -> bool:
        """Whether every policy has had the steps that it was to have."""
        steps = self._limits.steps
        return steps is not None and all(status.env_steps >= steps for status in self.statuses.values())

    @property
    def failure(self) -> str | None:
        """Return why the first policy that has failed did so, if one has."""
        failed = [status for status in self.statuses.values() if status.status == "failed"]
        if not failed:
            return None
        which = f" of policy '{failed[0].policy_id}'" if len(self._policies) > 1 else ""
        return f"training{which} has failed: {failed[0].error}"

    def seconds_in_vain(self, stillness: Stillness, now: float) -> float | None:
        """Return for how long nothing had been learnt by a run that has had its seconds; None where that is usual."""
        had_its_seconds = self._limits.seconds is not None and self.ended
        if not had_its_seconds or self.has_its_steps or not stillness.is_unusual(now):
            return None
        return stillness.seconds(now)

    def seconds_left(self, service: str, now: float) -> float | None:
        """Return what a Training service has left of this command's seconds, if it has begun and they are limited."""
        began, seconds = self._began.get(service), self._limits.seconds
        return None if seconds is None or began is None else max(0.001, seconds - (now - began))

    def progress(self, now: float) -> Progress | None:
        """Return where the first policy stands; None before anything has been learnt."""
        status = self._learning.get(self._policies[0])
        if status is None or not self._began:
            return None
        speed = status.env_steps_per_second
        fraction, left = fraction_done(self._limits, status.env_steps, speed, now - min(self._began.values()))
        return Progress(
            env_steps=status.env_steps,
            seconds=status.seconds,
            env_steps_per_second=speed,
            updates=status.policy_version,
            episodes=status.episodes,
            mean_return=status.mean_return if status.HasField("mean_return") else None,
            mean_episode_length=status.mean_episode_length if status.HasField("mean_episode_length") else None,
            evaluation_return=status.evaluation_return if status.HasField("evaluation_return") else None,
            metrics=dict(sorted(status.metrics.items())),
            fraction=fraction,
            seconds_left=left,
        )
