"""What a run says of itself while it continues and when it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

Status = Literal["running", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Progress:
    """The progress of a run after an update."""

    env_steps: int
    seconds: float  # spent training, over all resumes
    env_steps_per_second: float  # lately
    updates: int
    episodes: int
    mean_return: float | None  # of the last 100 episodes, None before the first has ended
    mean_episode_length: float | None
    metrics: Mapping[str, float]  # what the algorithm says of the update, by name
    fraction: float | None  # of the work done, None when nothing limits the run
    seconds_left: float | None
    evaluation_return: float | None = None  # mean return of the newest evaluation, None before the first


@dataclass(frozen=True)
class Summary:
    """The result of a run."""

    run_id: str
    run_dir: str
    status: Status
    env_steps: int
    seconds: float
    env_steps_per_second: float
    updates: int
    episodes: int
    mean_return: float | None
    mean_episode_length: float | None
    policy_version: int
    policy_sha256: str
    best_mean_return: float | None = None  # of the policy that is kept as the best; None while there is none
    best_policy_version: int | None = None

    @classmethod
    def of_nothing_yet(cls, run_id: str, run_dir: str) -> Summary:
        """Return the summary of a run that has only just been given its directory."""
        return cls(run_id, run_dir, "running", 0, 0.0, 0.0, 0, 0, None, None, 0, "")

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as a JSON object's content."""
        return asdict(self)


class Display(Protocol):
    """Shows a run to the user who started it."""

    def start(self, run_id: str, run_dir: str, resumed_at: int | None) -> None:
        """Say which run begins, or at which number of updates it continues."""

    def update(self, progress: Progress) -> None:
        """Show where the run stands; called after every update, so it must return at once."""

    def finish(self, summary: Summary | None) -> None:
        """Take the live view down and show the summary; None when the run has failed."""
