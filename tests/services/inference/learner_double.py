"""A Training service that does what a test tells it, on a real port."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

from rattle.policies.file import StoredPolicy, dump_policy
from rattle.policies.kinds import kind_of
from rattle.policies.mlp.spec import MlpSpec
from rattle.samples.spaces import CodeSpace
from rattle.services.utils.protos import training_pb2, training_pb2_grpc
from tests.ports import free_port

SPEC = MlpSpec(
    observation=CodeSpace(cells=60, codes=5), num_actions=3, hidden_sizes=(8,), activation="relu", value_head=True
)


def policy_message(
    version: int, lineage: str = "first", first_tick: int = 0, finished: bool = False
) -> training_pb2.Policy:
    """Return a policy of zeros as the service sends it."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in kind_of(SPEC).parameter_shapes(SPEC).items()}
    file = dump_policy(StoredPolicy(SPEC, zeros, version, "snake", {}))
    return training_pb2.Policy(
        policy_id="main", version=version, lineage=lineage, file=file, first_tick=first_tick, finished=finished
    )


class LearnerDouble(training_pb2_grpc.TrainingServicer):
    """Sends the policies that are put into it, and answers rollouts as `on_rollout` says."""

    def __init__(self) -> None:
        self._policies: deque[training_pb2.Policy] = deque()
        self.watched: list[training_pb2.WatchPolicyRequest] = []
        self.rollouts: list[training_pb2.Rollout] = []
        self.on_rollout: Callable[[training_pb2.Rollout, grpc.ServicerContext], training_pb2.Receipt.Verdict.ValueType]
        self.on_rollout = lambda rollout, context: training_pb2.Receipt.ACCEPTED
        self.reason = ""  # in receipts
        self.rollouts_a_stream: int | None = None  # after so many the service ends the stream, in good order
        self.came = threading.Condition()
        self.port = free_port()
        self._server: grpc.Server | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Come (back) at the same address."""
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        training_pb2_grpc.add_TrainingServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        """Go away at once, with every stream."""
        assert self._server is not None
        self._server.stop(0).wait()

    def send(self, policy: training_pb2.Policy) -> None:
        """Send a policy to whoever watches, now or later."""
        with self.came:
            self._policies.append(policy)
            self.came.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something that rollouts and watchers bring about is so."""
        with self.came:
            assert self.came.wait_for(condition, 120), (len(self.rollouts), len(self.watched))

    def WatchPolicy(  # type: ignore[override]  # noqa: N802
        self, request: training_pb2.WatchPolicyRequest, context: grpc.ServicerContext
    ) -> Iterator[training_pb2.Policy]:
        with self.came:
            self.watched.append(request)
            self.came.notify_all()

        def ended() -> None:
            with self.came:
                self.came.notify_all()

        if not context.add_callback(ended):
            return
        while True:
            with self.came:
                self.came.wait_for(lambda: bool(self._policies) or not context.is_active())
                if not context.is_active():
                    return
                message = self._policies.popleft()
            yield message

    def ContributeRollouts(  # type: ignore[override]  # noqa: N802
        self, request_iterator: Iterator[training_pb2.Rollout], context: grpc.ServicerContext
    ) -> Iterator[training_pb2.Receipt]:
        for number, rollout in enumerate(request_iterator, start=1):
            with self.came:
                self.rollouts.append(rollout)
                self.came.notify_all()
            verdict = self.on_rollout(rollout, context)
            yield training_pb2.Receipt(sequence=rollout.sequence, verdict=verdict, reason=self.reason)
            if number == self.rollouts_a_stream:
                return

    def UpdatePolicy(self, request: object, context: object) -> training_pb2.UpdatePolicyResponse:  # noqa: N802
        raise NotImplementedError

    def GetPolicy(self, request: object, context: object) -> training_pb2.Policy:  # noqa: N802
        raise NotImplementedError

    def GetStatus(self, request: object, context: object) -> training_pb2.Status:  # noqa: N802
        raise NotImplementedError
