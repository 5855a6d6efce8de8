"""What the Env service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.registry import Collector

from rattle.clients.lockstep import State
from rattle.services.env.agent_routes import AgentFace
from rattle.services.env.clocks import SyncClock
from rattle.services.env.lockstep_clock import LockstepClock
from rattle.services.env.sessions import Sessions
from rattle.services.utils.measures import (
    ANSWER_SECONDS,
    DAMAGED_MESSAGES,
    REQUEST_SECONDS,
    REQUESTS,
    CounterMeasure,
    GaugeMeasure,
    HistogramMeasure,
)
from rattle.wire.checksums import damaged_messages

SESSIONS = GaugeMeasure("rattle_env_sessions", "sessions", "Sessions of the vector API.")
WORLDS = GaugeMeasure("rattle_env_worlds", "worlds", "Worlds in all sessions.")
AGENTS = GaugeMeasure("rattle_env_agents", "agents", "Living snakes of the agent API.")
TICKS = CounterMeasure("rattle_env_ticks", "ticks", "Ticks of the agent API's world.")
MOVES = CounterMeasure("rattle_env_moves", "moves", "Moves that snakes were told.")
LINES = CounterMeasure("rattle_env_lines", "lines", "Lines that readers were given.")
LOCKSTEP_TICK = GaugeMeasure("rattle_env_lockstep_tick", "ticks", "The last tick of lockstep.")
LOCKSTEP_STATE = GaugeMeasure(
    "rattle_env_lockstep_state", "0 or 1", "1 for where this member of lockstep stands.", ("state",)
)
DATAGRAMS = CounterMeasure("rattle_env_datagrams", "datagrams", "Datagrams of the Sync service that were ticks.")
DATAGRAMS_IGNORED = CounterMeasure(
    "rattle_env_datagrams_ignored", "datagrams", "Datagrams of the Sync service that were none."
)
DATAGRAMS_REFUSED = CounterMeasure(
    "rattle_env_datagrams_refused", "datagrams", "Datagrams to the port for ticks without the right seal."
)
STEPS = CounterMeasure("rattle_env_steps", "environment steps", "Ticks of worlds, over all sessions.")
SOCKETS = GaugeMeasure("rattle_env_sockets", "connections", "Open WebSockets of the vector API.")
STEP_SECONDS = HistogramMeasure(
    "rattle_env_step_seconds", "seconds", "Time in the worlds for one step.", buckets=ANSWER_SECONDS
)


class _ServiceGauges(Collector):
    """Reads what the two faces count themselves, when somebody asks."""

    def __init__(self, sessions: Sessions, agents: AgentFace | None) -> None:
        self._sessions = sessions
        self._agents = agents

    def collect(self) -> Iterator[Metric]:
        yield DAMAGED_MESSAGES.family(damaged_messages())
        yield SESSIONS.family(len(self._sessions))
        yield WORLDS.family(self._sessions.num_worlds)
        if self._agents is None:
            return
        game, clock = self._agents.game, self._agents.clock
        yield AGENTS.family(game.agents)
        yield TICKS.family(game.ticks)
        yield MOVES.family(game.moves)
        yield LINES.family(game.lines)
        if isinstance(clock, LockstepClock):
            yield LOCKSTEP_TICK.family(clock.tick)
            member = LOCKSTEP_STATE.family()
            for state in get_args(State):
                member.add_metric([state], float(state == clock.member.state))
            yield member
        if isinstance(clock, SyncClock):
            yield DATAGRAMS.family(clock.datagrams.accepted)
            yield DATAGRAMS_IGNORED.family(clock.datagrams.ignored)
            yield DATAGRAMS_REFUSED.family(clock.datagrams.refused)


class EnvMetrics:
    """The service's numbers in a registry of their own; names carry their units."""

    def __init__(self, sessions: Sessions, agents: AgentFace | None) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        registry.register(_ServiceGauges(sessions, agents))
        self.env_steps = STEPS.live(registry)
        self.sockets = SOCKETS.live(registry)
        self._step_seconds = STEP_SECONDS.live(registry)
        self._requests = REQUESTS.live(registry)
        self._request_seconds = REQUEST_SECONDS.live(registry)
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
