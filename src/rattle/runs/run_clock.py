"""When a run stops, stores and shows something, and how fast it is."""

from __future__ import annotations

import time
from dataclasses import dataclass

#: Seconds from a start to its first checkpoint, unless they are asked for more often.
_FIRST_INTERVAL = 1.0
#: The next checkpoint comes after at least so many times the seconds that the processor worked for the last one.
PAUSE = 10.0


@dataclass
class RunLimits:
    """When a run stops by itself."""

    steps: int | None  # environment steps, over all resumes
    seconds: float | None  # of this command

    def reached(self, env_steps: int, seconds: float) -> str | None:
        """Return which limit is reached after so many steps and seconds, as the end of a sentence; None before."""
        if self.steps is not None and env_steps >= self.steps:
            return f"it has made {env_steps:,} of {self.steps:,} steps, train.steps"
        if self.seconds is not None and seconds >= self.seconds:
            return f"it has had its {self.seconds:g} seconds, train.seconds"
        return None


class RunClock:
    """Times a command, its limits and its checkpoints, from when learning starts."""

    def __init__(self, seconds_before: float, limits: RunLimits, checkpoint_seconds: float) -> None:
        self._before = seconds_before
        self._limits = limits
        self._every = checkpoint_seconds
        self._began = self._checkpointed = self._shown = time.perf_counter()
        self._speed = 0.0

    def here(self) -> float:
        """Return the seconds that this command has trained."""
        return time.perf_counter() - self._began

    def total(self) -> float:
        """Return the seconds that the run has trained, over all resumes."""
        return self._before + self.here()

    def limit_reached(self, env_steps: int) -> str | None:
        """Return which limit is reached: the run has had its steps, or this command its seconds; None before."""
        return self._limits.reached(env_steps, self.here())

    def checkpoint_due(self, seconds: float, cost: float) -> bool:
        """Whether the last checkpoint was long enough ago; counts from now on if so.

        The last one took `seconds`, of which the processor worked for `cost`. Soon after a start they come more often,
        so that a process which is killed again and again still gets somewhere. None is begun that would be stored only
        after the command's end: the last checkpoint would have to wait for it.
        """
        interval = max(min(self._every, max(_FIRST_INTERVAL, self.here() / 4)), PAUSE * cost)
        now = time.perf_counter()
        ends_first = self._limits.seconds is not None and self.here() + seconds > self._limits.seconds
        if now - self._checkpointed < interval or ends_first:
            return False
        self._checkpointed = now
        return True

    def second_passed(self) -> bool:
        """Whether the last call that said so was a second ago."""
        if time.perf_counter() - self._shown < 1.0:
            return False
        self._shown = time.perf_counter()
        return True

    def speed(self, steps: int, seconds: float) -> float:
        """Return steps a second, smoothed over about the last twenty updates."""
        now_speed = steps / seconds
        self._speed = now_speed if not self._speed else 0.95 * self._speed + 0.05 * now_speed
        return self._speed

    def fraction(self, env_steps: int, speed: float) -> tuple[float | None, float | None]:
        """Return how much is done, from 0 to 1, and the seconds left, by the limit that comes first."""
        return fraction_done(self._limits, env_steps, speed, self.here())


def fraction_done(limits: RunLimits, env_steps: int, speed: float, seconds: float) -> tuple[float | None, float | None]:
    """Return how much of a run is done after some seconds of its command, and the seconds left, by the first limit."""
    ends: list[tuple[float, float]] = []
    if limits.steps is not None:
        left = max(0.0, (limits.steps - env_steps) / speed)
        ends.append((left, min(1.0, env_steps / limits.steps)))
    if limits.seconds is not None:
        left = max(0.0, limits.seconds - seconds)
        ends.append((left, min(1.0, seconds / limits.seconds)))
    if not ends:
        return None, None
    soonest, fraction = min(ends)
    return fraction, soonest
