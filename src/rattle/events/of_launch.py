"""Events of `rattle up`: what happens to the services of a run."""

from __future__ import annotations

from typing import ClassVar

from rattle.events.event import Event, Level


class OfService(Event, frozen=True, kw_only=True):
    """What happens to a service."""

    service: str


class ServiceStarted(OfService, frozen=True, kw_only=True):
    """A service was started for the first time in this run."""

    sentence: ClassVar[str] = "{service}: started, pid {service_pid}"
    service_pid: int


class ServiceRestarted(OfService, frozen=True, kw_only=True):
    """A service that had died was started again."""

    sentence: ClassVar[str] = "{service}: restarted, pid {service_pid}"
    service_pid: int


class ServiceReady(OfService, frozen=True, kw_only=True):
    """A service has said where it listens."""

    sentence: ClassVar[str] = "{service}: ready at {address}"
    address: str


class ServiceKilled(OfService, frozen=True, kw_only=True):
    """A service was killed on purpose (--kill-every)."""

    sentence: ClassVar[str] = "{service}: killed on purpose, pid {service_pid}"
    service_pid: int | None


class ServiceDied(OfService, frozen=True, kw_only=True):
    """A service has died, and is started again; at level INFO where its death was wanted."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{service}: died: {reason}"
    reason: str


class ServiceMoved(OfService, frozen=True, kw_only=True):
    """Another program took the port of a service that had died, which is at another address now."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{service}: another program took its port: it is at {address} now"
    address: str


class ServiceWaits(OfService, frozen=True, kw_only=True):
    """Another program has the port that a service was told to take: it is started again until the port is free."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "{service}: cannot start again before its port is free: {reason}"
    reason: str


class ServiceGivenUp(OfService, frozen=True, kw_only=True):
    """A service cannot be kept running, and the run has failed."""

    level: ClassVar[Level] = "ERROR"
    sentence: ClassVar[str] = "{error}"
    error: str


class RunElsewhere(Event, frozen=True, kw_only=True):
    """Training runs on another machine, and stores the run there."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "the run's files are not on this machine, but where {service} runs ({command}): {path}"
    service: str
    command: str
    path: str


class RunStandsStill(Event, frozen=True, kw_only=True):
    """Nothing has been learnt, and no tick has come, for an unusual time."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = "nothing has happened for {seconds:.0f} s: {waited_for}"
    seconds: float
    waited_for: str


class KillsTooOften(Event, frozen=True, kw_only=True):
    """Services are killed more often than they can start (--kill-every)."""

    level: ClassVar[Level] = "WARNING"
    sentence: ClassVar[str] = (
        "services took {seconds:.0f} s to start, and one is killed every {every:g} s: little will be learnt"
    )
    seconds: float
    every: float
