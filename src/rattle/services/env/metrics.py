"""What the Env service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from rattle.clients.lockstep import State
from rattle.services.env.agent_routes import AgentFace
from rattle.services.env.clocks import SyncClock
from rattle.services.env.lockstep_clock import LockstepClock
from rattle.services.env.sessions import Sessions

_REQUEST_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)


class _ServiceGauges(Collector):
    """Reads what the two faces count themselves, when somebody asks."""

    def __init__(self, sessions: Sessions, agents: AgentFace | None) -> None:
        self._sessions = sessions
        self._agents = agents

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("rattle_env_sessions", "Sessions of the vector API.", len(self._sessions))
        yield GaugeMetricFamily("rattle_env_worlds", "Worlds in all sessions.", self._sessions.num_worlds)
        if self._agents is None:
            return
        game, clock = self._agents.game, self._agents.clock
        yield GaugeMetricFamily("rattle_env_agents", "Living snakes of the agent API.", game.agents)
        yield CounterMetricFamily("rattle_env_ticks", "Ticks of the agent API's world.", game.ticks)
        yield CounterMetricFamily("rattle_env_moves", "Moves that snakes were told.", game.moves)
        yield CounterMetricFamily("rattle_env_lines", "Lines that readers were given.", game.lines)
        if isinstance(clock, LockstepClock):
            yield GaugeMetricFamily("rattle_env_lockstep_tick", "The last tick of lockstep.", clock.tick)
            member = GaugeMetricFamily(
                "rattle_env_lockstep_state", "1 for where this member of lockstep stands.", labels=["state"]
            )
            for state in get_args(State):
                member.add_metric([state], float(state == clock.member.state))
            yield member
        if isinstance(clock, SyncClock):
            said = "Datagrams of the Sync service that were"
            yield CounterMetricFamily("rattle_env_datagrams", f"{said} ticks.", clock.datagrams.accepted)
            yield CounterMetricFamily("rattle_env_datagrams_ignored", f"{said} none.", clock.datagrams.ignored)


class EnvMetrics:
    """The service's numbers in a registry of their own; names carry their units."""

    def __init__(self, sessions: Sessions, agents: AgentFace | None) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        registry.register(_ServiceGauges(sessions, agents))
        self.env_steps = Counter("rattle_env_steps", "Ticks of worlds, over all sessions.", registry=registry)
        self.sockets = Gauge("rattle_env_sockets", "Open WebSockets of the vector API.", registry=registry)
        self._step_seconds = Histogram(
            "rattle_env_step_seconds", "Time in the worlds for one step.", registry=registry, buckets=_REQUEST_SECONDS
        )
        self._requests = Counter("rattle_requests", "Answered requests.", ["api", "status"], registry=registry)
        self._request_seconds = Histogram(
            "rattle_request_seconds",
            "Time from a request, or a message on a WebSocket, to the first bytes of its answer.",
            ["api"],
            registry=registry,
            buckets=_REQUEST_SECONDS,
        )
        self._answered: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def step(self, worlds: int, seconds: float) -> None:
        """Count one step of a session."""
        self.env_steps.inc(worlds)
        self._step_seconds.observe(seconds)

    def request(self, api: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        found = self._answered.get((api, status))
        if found is None:  # labels are looked up once: that takes longer than counting
            found = self._requests.labels(api, str(status)), self._request_seconds.labels(api)
            self._answered[api, status] = found
        found[0].inc()
        found[1].observe(seconds)
