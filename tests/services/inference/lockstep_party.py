"""Inference processes in lockstep without their sockets to a Sync service: a test says when which tick is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from rattle.clients.lockstep_member import MemberAnswer, MemberSettings, Work
from rattle.services.env.lockstep_clock import LockstepClock
from rattle.services.env.lockstep_game import LockstepGame
from rattle.services.inference.actor_pool import assignments
from rattle.services.inference.actors import ActorHandle
from rattle.services.inference.learners import Learners
from rattle.services.inference.lockstep_agents import LockstepAgents
from rattle.services.inference.lockstep_snake import LockstepSnake
from rattle.services.inference.snake_loop import SnakeLoop
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.services import SyncSection
from rattle.wire.lockstep import Phase
from tests.services.env.agent_server import PATIENCE, AgentServer, eventually, serving
from tests.services.env.fake_sync import FakeSync
from tests.trainer.conftest import small_settings

#: Small and hungry: lives are short.
BOARD = {"width": 9, "height": 9, "num_snakes": 4, "food": 3, "max_steps_without_food": 12}


def lockstep_settings(url: str, training: str, *more: str) -> ExperimentSettings:
    """Return the settings of processes that play in one world."""
    board = (f"env.{name}={value}" for name, value in BOARD.items())
    where = (f"inference.envs=['{url}']", f"inference.training=['{training}']")
    return small_settings("sync=lockstep", *board, *where, "inference.snakes=4", "train.steps=null", *more)


class World:
    """A real Env service whose world steps when a test says so."""

    def __init__(self, server: AgentServer, leader: FakeSync) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{server.port}"
        self.step = leader.step

    def waiting(self) -> list[str]:
        """Return who is placed in the next step."""
        return sorted(self.game._waiting)

    def living(self) -> list[str]:
        """Return who is in the world."""
        return sorted(self.game._living)

    def break_streams(self) -> None:
        """Break all connections of streams off."""
        assert isinstance(self.server.face.clock, LockstepClock)
        for stream in list(self.server.face.streams._open):
            self.server.face.clock.member._loop.call_soon_threadsafe(stream.cut)
        eventually(lambda: not len(self.server.face.streams))

    @property
    def game(self) -> LockstepGame:
        assert isinstance(self.server.face.game, LockstepGame)
        return self.server.face.game


@contextmanager
def world(snakes: int = 4, **board: Any) -> Iterator[World]:
    """Serve a world with room for some snakes."""
    with FakeSync() as leader:
        sync = SyncSection(mode="lockstep", address=leader.address)
        with serving({**BOARD, **board}, sync=sync, snakes=snakes) as server:
            leader.seat()
            yield World(server, leader)


class Process:
    """What one Inference service has of a lockstep run."""

    def __init__(self, settings: ExperimentSettings, loop: SnakeLoop) -> None:
        own = assignments(settings)
        self.versions: list[int] = []  # of policies that have come
        self.learners = Learners(settings, lambda name, policy: self.versions.append(policy.version))
        self.learners.start()
        self.threads = ThreadPoolExecutor(max(1, len(own)))
        controls = [ActorHandle() for _ in own]
        self.snakes = [
            LockstepSnake(settings, one, self.learners.contributions(one, control.stop), control, self.threads)
            for one, control in zip(own, controls, strict=True)
        ]
        self.agents = LockstepAgents(MemberSettings("127.0.0.1:1"), "test", self.snakes)
        self._loop = loop

    def begin(self, tick: int, all_idle: bool, last: bool) -> Future[MemberAnswer]:
        """Begin the work of a tick."""
        return self._loop.begin(self.agents.act(Work(tick, Phase.ACT, all_idle, last, ())))

    def close(self) -> None:
        for snake in self.snakes:
            self._loop.begin(snake.stop("the test is over")).result(PATIENCE)
            snake.control.end()
            snake.contributions.close(0.0)
        self.threads.shutdown()
        self.learners.stop()


class Party:
    """The Inference processes of a run, led as the Sync service leads them."""

    def __init__(self, world: World, settings: ExperimentSettings, processes: int = 1) -> None:
        self.world = world
        self.tick = 0
        self.all_idle = False
        self._loop = SnakeLoop()
        self.processes = [
            Process(
                settings.model_copy(
                    update={
                        "inference": settings.inference.model_copy(update={"index": index}),
                        "topology": settings.topology.model_copy(update={"inference": processes}),
                    }
                ),
                self._loop,
            )
            for index in range(processes)
        ]

    def begin(self, *, last: bool = False) -> list[Future[MemberAnswer]]:
        """Have all processes begin to act in the next tick."""
        self.tick += 1
        return [process.begin(self.tick, self.all_idle, last) for process in self.processes]

    def end(self, working: list[Future[MemberAnswer]]) -> Mapping[str, bytes]:
        """Wait for their answers; returns the hashes."""
        answers = [work.result(PATIENCE) for work in working]
        self.all_idle = all(answer.idle for answer in answers)
        return {name: one for answer in answers for name, one in answer.hashes.items()}

    def act(self, *, last: bool = False) -> Mapping[str, bytes]:
        """Have all processes act in the next tick."""
        return self.end(self.begin(last=last))

    def play(self, ticks: int) -> None:
        """Act and step so many times."""
        for _ in range(ticks):
            self.act()
            self.world.step()

    def until_idle(self) -> None:
        """Act and step until all wait for the next policy, and say so in a phase act."""
        for _ in range(500):
            self.act()
            if self.all_idle:
                return
            self.world.step()
        raise AssertionError("they are never idle")

    def close(self) -> None:
        for process in self.processes:
            process.close()
        self._loop.close()


@contextmanager
def party(world: World, settings: ExperimentSettings, processes: int = 1) -> Iterator[Party]:
    """Have processes play until the block ends."""
    party = Party(world, settings, processes)
    try:
        yield party
    finally:
        party.close()
