"""Actors and services for tests: rollouts of real worlds, contributed over real sockets."""

from __future__ import annotations

import asyncio
import queue
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from rattle.envs.seeds import derive_seed
from rattle.policies.acting import ActingPolicy
from rattle.policies.file import load_policy
from rattle.rollouts.collector import Collector, WorldBatch, WorldsActor
from rattle.rollouts.worlds import build_worlds
from rattle.runs.episode_recorder import recorded_episodes
from rattle.services.inference.rollouts import to_message
from rattle.services.training.policy_run import PolicyRun
from rattle.services.training.service import TrainingService
from rattle.services.training.servicer import TrainingServicer
from rattle.services.utils.grpc_serving import bind, make_server
from rattle.services.utils.guard import Guard
from rattle.services.utils.protos import training_pb2, training_pb2_grpc
from rattle.services.utils.tensors import DTYPES
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.services import SecuritySection
from rattle.wire.vector import dump_environment

ACCEPTED, DUPLICATE, STALE, FINISHED = (
    training_pb2.Receipt.ACCEPTED,
    training_pb2.Receipt.DUPLICATE,
    training_pb2.Receipt.STALE,
    training_pb2.Receipt.FINISHED,
)
SECONDS = 60  # of patience


def array(message: training_pb2.Tensor) -> NDArray[Any]:
    """Return the content of a tensor, to be changed at will."""
    return np.frombuffer(bytearray(message.data), DTYPES[message.dtype]).reshape(tuple(message.shape))


class Player:
    """Plays some of an experiment's worlds as an actor does, and numbers its rollouts."""

    def __init__(
        self,
        settings: ExperimentSettings,
        first_world: int = 0,
        worlds: int | None = None,
        actor: str = "actor",
        life: str = "life",
    ) -> None:
        self.actor, self.life, self.sequence = actor, life, 0
        self._settings, self._first = settings, first_world
        count = settings.env.worlds - first_world if worlds is None else worlds
        algorithm = settings.algorithm
        ticks = algorithm.rollout_ticks
        group = WorldBatch(build_worlds(settings, count, first_world), first_world, first_world)
        self.environment = dump_environment(group.worlds.spec)
        self._collector = Collector([WorldsActor([group])], ticks, complete_episodes=algorithm.complete_episodes)
        self._acting: ActingPolicy | None = None

    def play(self, policy: training_pb2.Policy) -> training_pb2.Rollout:
        """Return a rollout by a policy, from the tick on that comes with it."""
        collector = self._collector
        if self._acting is not None and policy.first_tick > collector.ticks:
            collector.play_on(self._acting, policy.first_tick - collector.ticks)
        collector.ticks = policy.first_tick
        loaded = load_policy(policy.file)
        if loaded.spec.memory_size != collector.memory_size:
            collector.remember(loaded.spec.memory_size)
        self._acting = ActingPolicy(loaded.spec, loaded.parameters, derive_seed(self._settings.seed, "actions"))
        complete = self._settings.algorithm.complete_episodes
        records = recorded_episodes(self._settings, policy.version, complete_episodes=complete)
        played = collector.collect(self._acting, policy.version, records)
        rollout = to_message(played, self._first, loaded.spec.action)
        self.sequence += 1
        rollout.actor, rollout.life, rollout.sequence = self.actor, self.life, self.sequence
        rollout.policy_version, rollout.lineage, rollout.policy_id = policy.version, policy.lineage, policy.policy_id
        rollout.continues = self.sequence > 1
        return rollout


class Client:
    """A client of a service with a stream of rollouts."""

    def __init__(self, address: str) -> None:
        unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        self.channel = grpc.insecure_channel(address, [*unlimited, ("grpc.max_reconnect_backoff_ms", 200)])
        self.stub = training_pb2_grpc.TrainingStub(self.channel)
        self._to_send: queue.SimpleQueue[training_pb2.Rollout | None] = queue.SimpleQueue()
        self._receipts: Any = None

    def policy(self, policy_id: str = "") -> training_pb2.Policy:
        """Return the newest policy."""
        return self.stub.GetPolicy(training_pb2.GetPolicyRequest(policy_id=policy_id), timeout=SECONDS)

    def watch(self, known: training_pb2.Policy | None = None, policy_id: str = "", environment: str = "") -> Any:
        """Return a stream of policies."""
        request = training_pb2.WatchPolicyRequest(policy_id=policy_id, environment=environment)
        if known is not None:
            request.known_version, request.known_lineage = known.version, known.lineage
        return self.stub.WatchPolicy(request, timeout=SECONDS)

    def status(self, policy: int = 0) -> training_pb2.PolicyStatus:
        """Return how one of the policies fares."""
        return self.stub.GetStatus(training_pb2.GetStatusRequest(), timeout=SECONDS).policies[policy]

    def send(self, rollout: training_pb2.Rollout) -> None:
        """Send a rollout on the stream."""
        if self._receipts is None:
            self._receipts = self.stub.ContributeRollouts(iter(self._to_send.get, None), timeout=SECONDS)
        self._to_send.put(rollout)

    def receipt(self) -> training_pb2.Receipt:
        """Return the next receipt; raises RpcError when the stream has ended in one."""
        receipt: training_pb2.Receipt = next(self._receipts)
        return receipt

    def contribute(self, rollout: training_pb2.Rollout) -> int:
        """Send a rollout and return its verdict."""
        self.send(rollout)
        receipt = self.receipt()
        assert receipt.sequence == rollout.sequence
        return receipt.verdict

    def close(self) -> None:
        """Break all streams."""
        self._to_send.put(None)
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Server:
    """The service in a thread of this process."""

    def __init__(self, settings: ExperimentSettings, run_dir: Path, max_message_bytes: int = 2**28) -> None:
        self.service = TrainingService(settings, run_dir)
        self._limit = max_message_bytes
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(SECONDS)
        if self._error is not None:
            raise self._error

    def client(self) -> Client:
        return Client(self.address)

    def stop(self) -> None:
        """Stop it as SIGTERM does, if it runs."""
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        face = TrainingServicer(self.service)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = make_server(self._limit, 1000, Guard("127.0.0.1", SecuritySection()))
        self.address = bind(server, "127.0.0.1", 0)
        face.attach(server)
        try:
            await face.start()
        except BaseException as error:
            self._error = error
            return
        finally:
            if self._error is None:
                await server.start()
            self._started.set()
        await self._stop.wait()
        await face.stop()
        await server.stop(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def train_to_the_end(client: Client, player: Player) -> training_pb2.Policy:
    """Play and contribute until nothing more is learnt."""
    for policy in client.watch(environment=player.environment):
        if policy.finished:
            return policy
        assert client.contribute(player.play(policy)) == ACCEPTED
    raise AssertionError


class _Held:
    """Something that a run does, which takes until `go_on` the first time."""

    method: str

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._gate = threading.Event()
        quickly = getattr(PolicyRun, self.method)

        def slowly(*arguments: object) -> object:
            assert self._gate.wait(60)
            return quickly(*arguments)

        monkeypatch.setattr(PolicyRun, self.method, slowly)

    def go_on(self) -> None:
        self._gate.set()


class BusyLearner(_Held):
    """A learner whose first update takes until `go_on`."""

    method = "learn"


class SlowDisk(_Held):
    """A disk that takes until `go_on` to write the first update down."""

    method = "write_down"


def episodes_in(rollouts: list[training_pb2.Rollout]) -> list[dict[str, Any]]:
    """Return the episodes that ended in rollouts that follow each other, in the order in which they ended."""
    columns = {
        name: np.concatenate([array(getattr(rollout, name)) for rollout in rollouts])
        for name in ("reward", "terminated", "truncated", "world_episode")
    }
    ended = columns["terminated"] | columns["truncated"]
    first, rows = [0] * ended.shape[1], []
    for tick, world in np.argwhere(ended).tolist():
        own = slice(first[world], tick + 1)
        rows.append(
            {
                "world": world,
                "world_episode": int(columns["world_episode"][tick, world]),
                "length": own.stop - own.start,
                "return": float(columns["reward"][own, world].sum(dtype=np.float64)),
                "first_tick": own.start,
                "last_tick": tick,
            }
        )
        first[world] = tick + 1
    return rows
