"""A lockstep run in a simulated network: virtual time, datagrams that get lost, doubled and late, lives that end.

Members keep a log of what they did; the simulation holds them to the rules while it runs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from rattle.clients.lockstep import Member, MemberAnswer, Work
from rattle.services.sync.coordinator import Coordinator
from rattle.settings.services import SyncSection
from rattle.wire.lockstep import Codec, Phase, Role

SYNC = ("sync", 5555)


@dataclass(frozen=True)
class Network:
    """How bad the network is: fractions, and seconds."""

    loss: float = 0.0
    duplicates: float = 0.0
    delay: float = 0.0005
    late: float = 0.0  # fraction of datagrams that come much later
    late_seconds: float = 1.0
    recorded: int = 0  # for each datagram, how many that somebody has recorded before come once more


@dataclass
class SimulatedMember:
    """A process: its member's state machine, and what it has done over all its lives."""

    name: str
    role: Role
    work_seconds: float = 0.0
    member: Member | None = None
    lives: int = 0
    port: int = 0
    partitioned: bool = False
    done: list[tuple[int, Phase]] = field(default_factory=list)  # of this life
    works: list[Work] = field(default_factory=list)  # of this life
    idle_at: frozenset[int] = frozenset()
    timer: Timer | None = None
    sequence: int = 0


class Timer:
    """Wakes a state machine when it asks for that; one call at a time is on its way."""

    def __init__(
        self,
        simulation: Simulation,
        wake_at: Callable[[], float],
        wake: Callable[[], None],
        is_alive: Callable[[], bool],
    ) -> None:
        self._simulation, self._wake_at, self._wake, self._is_alive = simulation, wake_at, wake, is_alive
        self._at = float("inf")

    def set(self) -> None:
        """Look when the machine asks for: a call that comes earlier is kept, and looks again."""
        when = self._wake_at()
        if when < self._at:
            self._at = when = max(when, self._simulation.now)
            self._simulation.at(when, self._fire, when)

    def _fire(self, when: float) -> None:
        if when != self._at or not self._is_alive():
            return
        self._at = float("inf")
        if self._wake_at() <= self._simulation.now:
            self._wake()
        else:
            self.set()


class Simulation:
    """A service and its members; `run` lets virtual time pass until the clock or a condition says stop."""

    def __init__(
        self, seed: int, members: dict[str, Role], network: Network, *, sealed: bool = True, **settings: object
    ) -> None:
        self.random = Random(seed)  # noqa: S311 - a network guards nothing
        self.network = network
        self.now = 1000.0
        self.settings = SyncSection.model_validate({"participants": tuple(members), **settings})
        self.key = b"k" * 16 if sealed else None
        self.coordinator: Coordinator | None = None
        self.members = {name: SimulatedMember(name, role) for name, role in members.items()}
        self._agents = {name for name, role in members.items() if role == Role.AGENT}
        self._has_world = Role.ENVIRONMENT in members.values()
        self.committed = 0  # ticks
        self.acted: dict[int, set[str]] = {}
        self.phases: dict[tuple[int, Phase], dict[str, bytes]] = {}
        self.events: list[str] = []
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._sync_timer: Timer | None = None
        self._service_did = False  # something, since `run` looked
        self.sent = 0
        self._recorded: list[tuple[Callable[..., None], tuple[Any, ...]]] = []  # bring datagrams that were there again

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._queue, (when, self._count, call, arguments))

    def run(self, until: Callable[[], bool], seconds: float = 3600.0) -> None:
        """Let time pass until a condition of the service holds; fails when it does not within these virtual seconds."""
        deadline = self.now + seconds
        queue = self._queue
        while not until():
            self._service_did = False
            while not self._service_did:
                assert queue, f"nothing will happen any more: {self.describe()}"
                when, _, call, arguments = heapq.heappop(queue)
                assert when < deadline, f"not reached within {seconds} seconds: {self.describe()}"
                if when > self.now:
                    self.now = when
                call(*arguments)

    def describe(self) -> str:
        members = {
            m.name: m.member and (m.member.state, m.member.reason, m.member.done_tick, m.member.place)
            for m in self.members.values()
        }
        return f"{self.coordinator and self.coordinator.status(self.now)} {members} {self.events[-10:]}"

    # The service.

    def start_sync(self) -> None:
        coordinator = Coordinator(self.settings, Codec(self.key, is_service=True), self.random.randrange(1, 2**62))
        self.coordinator = coordinator
        coordinator.begin(self.now)
        self._service_did = True
        self._sync_timer = Timer(
            self,
            coordinator.wake_at,
            lambda: self._give_out(coordinator.wake(self.now)),
            lambda: self.coordinator is coordinator,
        )
        self._sync_timer.set()

    def stop_sync(self) -> None:
        self.coordinator = None
        self._service_did = True

    def _give_out(self, datagrams: list[tuple[tuple[str, int], bytes]]) -> None:
        assert self.coordinator is not None
        self._service_did = True
        leader, out = self.coordinator.leader, self.coordinator.out
        if leader.phases:
            for completed in leader.phases:
                known = self.phases.setdefault((completed.tick, completed.phase), completed.hashes)
                assert all(known.get(subject, said) == said for subject, said in completed.hashes.items())
                known.update(completed.hashes)
            leader.phases.clear()
            leader.round_trips.clear()
        if out.events:
            self.events += map(str, out.events)
            out.events.clear()
        for (name, port), data in datagrams:
            assert len(data) <= 1200
            simulated = self.members[name]
            self._carry(self._arrive_at_member, simulated, port, data)
            if self.network.recorded:
                self._record(self._arrive_at_latest_life, simulated, data)
        if self._sync_timer is not None:
            self._sync_timer.set()

    # Members.

    def start_member(self, name: str) -> None:
        simulated = self.members[name]
        simulated.lives += 1
        simulated.port += 1
        member = Member(name, simulated.role, simulated.lives, Codec(self.key))
        simulated.member = member
        simulated.timer = Timer(
            self,
            member.wake_at,
            lambda: self._member_sends(simulated, member.wake(self.now)),
            lambda: simulated.member is member,
        )
        simulated.done, simulated.works = [], []
        self._member_sends(simulated, member.begin(self.now))

    def stop_member(self, name: str) -> None:
        self.members[name].member = None

    def _member_sends(self, simulated: SimulatedMember, datagrams: list[bytes]) -> None:
        for data in datagrams:
            self._carry(self._arrive_at_sync, simulated, simulated.port, data)
            if self.network.recorded:
                elsewhere = simulated.port + self.random.choice([0, 1, 1000])
                self._record(self._arrive_at_sync, simulated, elsewhere, data)
        member = simulated.member
        if member is None:
            return
        if (work := member.take_work()) is not None:
            self._begin_work(simulated, member, work)
        if simulated.timer is not None:
            simulated.timer.set()

    def _begin_work(self, simulated: SimulatedMember, member: Member, work: Work) -> None:
        did = work.tick, work.phase
        assert int(work.phase) == int(simulated.role)
        assert not simulated.done or did > simulated.done[-1], f"{simulated.name} was told to do {did} again"
        self.check_work(simulated, work)
        simulated.done.append(did)
        simulated.works.append(work)

        self.at(self.now + self.random.random() * simulated.work_seconds, self._finish_work, simulated, member, work)

    def _finish_work(self, simulated: SimulatedMember, member: Member, work: Work) -> None:
        if simulated.member is not member:
            return
        if work.phase == Phase.ACT:
            self.acted.setdefault(work.tick, set()).add(simulated.name)
        else:
            self.committed = max(self.committed, work.tick)
        answer = MemberAnswer({simulated.name: work.tick.to_bytes(8, "little")}, work.tick in simulated.idle_at)
        self._member_sends(simulated, member.finish(answer, self.now))

    def check_work(self, simulated: SimulatedMember, work: Work) -> None:
        """Hold a piece of work to the rules; only where nobody may be left behind."""
        if self.settings.silent != "wait":
            return
        if work.phase == Phase.STEP:
            assert self._agents == self.acted.get(work.tick, set()), f"{simulated.name} steps {work.tick} too early"
        elif self._has_world and work.tick > 1:
            assert self.committed >= work.tick - 1, f"{simulated.name} acts in {work.tick} too early"

    # The network.

    def _carry(self, arrive: Callable[..., None], simulated: SimulatedMember, port: int, data: bytes) -> None:
        network, random = self.network, self.random.random
        self.sent += 1
        for _ in range(2 if random() < network.duplicates else 1):
            if random() < network.loss or simulated.partitioned:
                continue
            longest = network.late_seconds if random() < network.late else network.delay
            self.at(self.now + 0.00001 + random() * longest, arrive, simulated, port, data)

    def _record(self, arrive: Callable[..., None], *arguments: Any) -> None:
        self._recorded.append((arrive, arguments))
        for _ in range(self.network.recorded):
            call, given = self.random.choice(self._recorded)
            self.at(self.now + self.random.uniform(0.00001, 5.0), call, *given)

    def _arrive_at_sync(self, simulated: SimulatedMember, port: int, data: bytes) -> None:
        if self.coordinator is not None and not simulated.partitioned:
            self._give_out(self.coordinator.receive(data, (simulated.name, port), self.now))

    def _arrive_at_latest_life(self, simulated: SimulatedMember, data: bytes) -> None:
        self._arrive_at_member(simulated, simulated.port, data)

    def _arrive_at_member(self, simulated: SimulatedMember, port: int, data: bytes) -> None:
        if simulated.member is not None and simulated.port == port and not simulated.partitioned:
            self._member_sends(simulated, simulated.member.receive(data, self.now))
