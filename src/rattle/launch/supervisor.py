"""Which service is started, signalled or given up, and when: events in, actions out, no process and no clock inside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM, Signals, strsignal
from typing import Literal

import tenacity

from rattle.events import Event, of_launch, of_services
from rattle.launch.notes import Note, note
from rattle.launch.service import Hello, LaunchedService
from rattle.stop_signals import RUN_IS_COMPLETE

#: How long a service may take until its first line, in seconds.
START_SECONDS = 120.0
#: A service that was ready for so long has not died of its start: its waits begin again.
STABLE_SECONDS = 10.0
#: The first and the longest wait before a service is started again, in seconds; the waits double.
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
#: Deaths in a row, without a stable while between them, after which a service is given up: one that has never been
#: ready, and any other. The first is enough where it says itself that a user has to fix something; one whose port is
#: taken is started until the port is free.
MOST_FIRST_DEATHS, MOST_DEATHS = 3, 20
#: How long Training may take to store a checkpoint, and after it the others to stop, before they are killed.
CHECKPOINT_SECONDS, STOP_SECONDS = 30.0, 10.0

_BACK_OFF = tenacity.wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)

Phase = Literal["waiting", "starting", "ready", "dead"]


@dataclass(frozen=True)
class Start:
    """Start a service: `life` numbers its processes, from 1. Its end should be reported, even if it never began."""

    name: str
    life: int


@dataclass(frozen=True)
class Send:
    """Send a signal to the process of a service, if it is still there."""

    name: str
    number: Signals


Action = Start | Send | Note


@dataclass
class Watched:
    """A service and what is known of it."""

    service: LaunchedService
    phase: Phase = "waiting"
    since: float = 0.0  # when the phase began
    life: int = 0
    pid: int | None = None
    hello: Hello | None = None  # the newest first line; none before the service has been ready once
    deaths: int = 0  # in a row
    start_at: float = 0.0  # of a dead one
    killed: bool = False  # the death that comes is wanted, and says nothing about the service
    fault: str = ""  # why it is killed
    reason: str = ""  # why it died last; empty when it has been ready since
    moves: bool = False  # another program has its port: where it may choose, it takes another

    @property
    def alive(self) -> bool:
        """Whether it has a process."""
        return self.phase in ("starting", "ready")

    @property
    def address(self) -> str:
        """Where it listens, as it said itself; empty before it has said so."""
        return str(self.hello[self.service.ports[0].key]) if self.hello else ""

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self.life - 1)


class Supervisor:
    """Keeps one process of each service alive until it is told to stop, or one cannot be kept alive."""

    def __init__(self, services: Iterable[LaunchedService]) -> None:
        self.services = {service.name: Watched(service) for service in services}
        self.kills = 0
        self.failure: str | None = None  # why it has given up
        self._stopping: Literal["no", "training", "all", "at once"] = "no"
        self._patience_ends = 0.0

    @property
    def stopping(self) -> bool:
        """Whether services are stopped, and none is started any more."""
        return self._stopping != "no"

    @property
    def done(self) -> bool:
        """Whether it was told to stop, or has given up, and no process is left."""
        return self.stopping and not self._alive()

    @property
    def hellos(self) -> dict[str, Hello]:
        """Return the newest first lines by service."""
        return {name: watched.hello for name, watched in self.services.items() if watched.hello is not None}

    @property
    def restarts(self) -> int:
        """How often services were started again."""
        return sum(watched.restarts for watched in self.services.values())

    def begin(self, now: float) -> list[Action]:
        """Start what needs nothing."""
        return self._start_what_can(now)

    def started(self, name: str, life: int, pid: int) -> list[Action]:
        """Take note of a service's process."""
        watched = self._of(name, life)
        if watched is None:
            return []
        watched.pid = pid
        kind = of_launch.ServiceStarted if life == 1 else of_launch.ServiceRestarted
        return [note(kind(service=name, service_pid=pid))]

    def said(self, name: str, life: int, line: str, now: float) -> list[Action]:
        """Take the first line of a service: it is ready, and so are perhaps those that need it."""
        watched = self._of(name, life)
        if watched is None or watched.phase != "starting":
            return []
        try:
            hello = json.loads(line)
            for port in watched.service.ports:
                port.read(hello)
        except (ValueError, LookupError, TypeError):
            watched.fault = f"its first line does not say where it listens: {line[:200]!r}"
            return [Send(name, SIGKILL)]
        before, watched.hello = watched.hello, hello
        watched.phase, watched.since, watched.reason = "ready", now, ""
        ready = note(of_launch.ServiceReady(service=name, address=watched.address))
        moved = self._tell_who_needs(watched, before) if watched.moves else []
        watched.moves = False
        return [ready, *moved, *self._start_what_can(now)]

    def exited(self, name: str, life: int, status: int, last: Event | str, now: float) -> list[Action]:
        """Take the end of a service's process: its exit status, negative for a signal, and what it said last."""
        watched = self._of(name, life)
        if watched is None:
            return []
        stable = watched.phase == "ready" and now - watched.since >= STABLE_SECONDS
        watched.deaths = (0 if stable else watched.deaths) + (0 if watched.killed else 1)
        reason = watched.fault or (str(last) if status > 0 else "") or _ending(status)
        expected, is_news = watched.killed, reason != watched.reason
        watched.killed, watched.fault, watched.reason = False, "", reason
        watched.phase, watched.since, watched.pid = "dead", now, None
        if self.stopping:
            return self._go_on_stopping(now)
        watched.start_at = now + _wait(watched.deaths)
        if isinstance(last, of_services.PortTaken) and watched.hello is not None:
            waits = _lost_port(watched)
            return [note(of_launch.ServiceWaits(service=name, reason=reason))] if waits and is_news else []
        died = note(of_launch.ServiceDied(service=name, reason=reason), "INFO" if expected else "WARNING")
        if watched.deaths >= _most_deaths(watched, last):
            return [died, *self._give_up(watched, reason, now)]
        return [died]

    def wake(self, now: float) -> list[Action]:
        """Do what is due."""
        if self.stopping:
            return self._go_on_stopping(now)
        actions: list[Action] = []
        for name, watched in self.services.items():
            if watched.phase == "starting" and not watched.fault and now - watched.since >= START_SECONDS:
                watched.fault = f"it was not ready after {START_SECONDS:.0f} seconds"
                actions.append(Send(name, SIGKILL))
        return [*actions, *self._start_what_can(now)]

    def wake_at(self) -> float | None:
        """Return when `wake` is due, if nothing happens before."""
        if self.stopping:
            return self._patience_ends if self._stopping != "at once" else None
        times = [watched.start_at for watched in self.services.values() if watched.phase == "dead"]
        times += [
            watched.since + START_SECONDS
            for watched in self.services.values()
            if watched.phase == "starting" and not watched.fault
        ]
        return min(times, default=None)

    def targets(self) -> list[str]:
        """Return the services that chaos may strike: those alive, once all have been ready."""
        if self.stopping or any(watched.hello is None for watched in self.services.values()):
            return []
        return [name for name, watched in self.services.items() if watched.alive and not watched.killed]

    def kill(self, name: str) -> list[Action]:
        """Kill a service, to show that it does not matter."""
        watched = self.services[name]
        watched.killed = True
        self.kills += 1
        return [note(of_launch.ServiceKilled(service=name, service_pid=watched.pid)), Send(name, SIGKILL)]

    def stop(self, now: float, *, is_complete: bool = False) -> list[Action]:
        """Stop Training first, which stores what it has learnt, and whether the run is complete; then the others."""
        if self.stopping:
            return []
        self._stopping, self._patience_ends = "training", now + CHECKPOINT_SECONDS
        trainings = self._alive("training")
        number = RUN_IS_COMPLETE if is_complete else SIGTERM
        return [Send(name, number) for name in trainings] or self._go_on_stopping(now)

    def stop_at_once(self) -> list[Action]:
        """Kill all that is left."""
        self._stopping = "at once"
        return [Send(name, SIGKILL) for name in self._alive()]

    def _go_on_stopping(self, now: float) -> list[Action]:
        """Take the next step if the present one is over, or has had its time."""
        late = now >= self._patience_ends
        if self._stopping == "training" and (late or not self._alive("training")):
            self._stopping, self._patience_ends = "all", now + STOP_SECONDS
            stubborn = self._alive("training")
            return [Send(name, SIGKILL if name in stubborn else SIGTERM) for name in self._alive()]
        return self.stop_at_once() if self._stopping == "all" and late else []

    def _tell_who_needs(self, moved: Watched, before: Hello | None) -> list[Action]:
        """Have those that need a service which has moved start again, with its new address."""
        name, hello = moved.service.name, moved.hello
        actions: list[Action] = [note(of_launch.ServiceMoved(service=name, address=moved.address))]
        for other in self.services.values():
            tells = [need.tell for need in other.service.needs if need.name == name]
            if other.alive and before and hello and any(tell(before) != tell(hello) for tell in tells):
                other.killed, other.fault = True, f"{name} has another address now"
                actions.append(Send(other.service.name, SIGKILL))
        return actions

    def _give_up(self, watched: Watched, reason: str, now: float) -> list[Action]:
        name = watched.service.name
        what = "died again and again" if watched.hello is not None else "cannot start"
        self.failure = f"{name} {what}: {reason}"
        return [note(of_launch.ServiceGivenUp(service=name, error=self.failure)), *self.stop(now)]

    def _start_what_can(self, now: float) -> list[Action]:
        if self.stopping:
            return []
        known, actions = self.hellos, list[Action]()
        for name, watched in self.services.items():
            due = watched.phase == "waiting" or (watched.phase == "dead" and now >= watched.start_at)
            if due and all(need.name in known for need in watched.service.needs):
                watched.phase, watched.since, watched.life = "starting", now, watched.life + 1
                actions.append(Start(name, watched.life))
        return actions

    def _of(self, name: str, life: int) -> Watched | None:
        """Return a service if it lives and this is its life: what is heard of an earlier one is too late."""
        watched = self.services[name]
        return watched if watched.life == life and watched.alive else None

    def _alive(self, kind: str | None = None) -> Sequence[str]:
        return [
            name
            for name, watched in self.services.items()
            if watched.alive and (kind is None or watched.service.kind == kind)
        ]


def _lost_port(watched: Watched) -> bool:
    """Have a service whose port is taken choose another, and return whether it has to wait for a given one instead."""
    may_choose = any(port.number == 0 for port in watched.service.ports)
    waits = watched.moves or not may_choose
    watched.moves = may_choose
    return waits


def _most_deaths(watched: Watched, last: Event | str) -> int:
    """Return after how many deaths in a row a service is given up that said this last."""
    if watched.hello is not None:
        return MOST_DEATHS
    return 1 if isinstance(last, of_services.Error) else MOST_FIRST_DEATHS


def _ending(status: int) -> str:
    """Return an exit status, negative for a signal, in words."""
    return f"ended by signal {-status} ({strsignal(-status)})" if status < 0 else f"ended with exit status {status}"


def _wait(deaths: int) -> float:
    """Return how long to wait after a death; one that was wanted, the first of all, counts as one."""
    call = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    call.attempt_number = max(1, deaths)
    return float(_BACK_OFF(call))
