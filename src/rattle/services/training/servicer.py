"""The gRPC face: messages to use cases and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import grpc

from rattle.learning.learner import UpdateMetrics
from rattle.services.training.actors import ActorStream
from rattle.services.training.learning_loop import LearningLoop
from rattle.services.training.policy_run import PublishedPolicy
from rattle.services.training.service import TrainingService
from rattle.services.training.status import service_status
from rattle.services.utils.budget import Shares
from rattle.services.utils.checked_messages import CheckedServer
from rattle.services.utils.grpc_refusals import address_of_peer, answering
from rattle.services.utils.protos import training_pb2, training_pb2_grpc
from rattle.text import one_line

Context = grpc.aio.ServicerContext[Any, Any]

#: Streams of each kind at a time: an actor has one of both.
_STREAMS = 2048
#: Methods that are sent rollouts and policies.
_LARGE = ("UpdatePolicy", "ContributeRollouts")
NAME = training_pb2.DESCRIPTOR.services_by_name["Training"].full_name


class TrainingServicer(training_pb2_grpc.TrainingServicer):
    """rattle.v1.Training; a service by itself, which `grpc_serving.serve` can serve."""

    names: Sequence[str] = (NAME,)

    def __init__(self, service: TrainingService) -> None:
        self._service = service
        self._contributing = Shares(_STREAMS, "streams of rollouts")
        self._watching = Shares(_STREAMS, "streams of policies")

    def attach(self, server: grpc.aio.Server) -> None:
        """Add its methods to a server."""
        largest = self._service.settings.training.max_message_bytes
        training_pb2_grpc.add_TrainingServicer_to_server(
            self, cast(grpc.aio.Server, CheckedServer(server, largest, _LARGE))
        )

    def is_ready(self) -> bool:
        """Whether it takes rollouts."""
        return self._service.takes_rollouts()

    async def start(self) -> None:
        """Begin to learn."""
        await self._service.start()

    async def stop(self) -> None:
        """End streams and runs."""
        await self._service.stop()

    async def UpdatePolicy(  # noqa: N802
        self, request: training_pb2.UpdatePolicyRequest, context: Context
    ) -> training_pb2.UpdatePolicyResponse:
        """Improve the policy in the request, or the service's own."""
        async with answering(context):
            if request.policy:
                file, metrics = await self._service.improve_given(request.policy, request.rollout)
                policy = training_pb2.Policy(version=metrics.policy_version, file=file)
            else:
                update, loop = await self._service.improve(request.rollout)
                policy, metrics = self._policy(loop, update.policy), update.metrics
        return training_pb2.UpdatePolicyResponse(policy=policy, metrics=_metrics(metrics))

    async def ContributeRollouts(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[training_pb2.Rollout], context: Context
    ) -> None:
        """Take the rollouts of one actor, and answer each with a receipt."""
        stream = ActorStream(one_line(context.peer()))
        async with answering(context), stream.ending():
            with self._contributing.holding(address_of_peer(context)):
                async for message in request_iterator:
                    verdict, reason, loop = await self._service.contribute(stream, message)
                    receipt = training_pb2.Receipt(
                        sequence=message.sequence,
                        verdict=training_pb2.Receipt.Verdict.Value(verdict.value),
                        reason=reason,
                        policy_version=loop.newest.version,
                    )
                    await context.write(receipt)

    async def WatchPolicy(  # noqa: N802
        self, request: training_pb2.WatchPolicyRequest, context: Context
    ) -> AsyncIterator[training_pb2.Policy]:
        """Send the policy unless the reader knows it, and every new one."""
        async with answering(context):
            with self._watching.holding(address_of_peer(context)):
                await self._service.introduce(request.environment, one_line(context.peer()))
                loop = self._service.loop(request.policy_id)
                async for made in loop.watch((request.known_lineage, request.known_version)):
                    yield self._policy(loop, made)

    async def GetPolicy(  # noqa: N802
        self, request: training_pb2.GetPolicyRequest, context: Context
    ) -> training_pb2.Policy:
        """Return the newest policy."""
        async with answering(context):
            loop = self._service.loop(request.policy_id)
        return self._policy(loop, loop.newest)

    async def GetStatus(  # noqa: N802
        self, request: training_pb2.GetStatusRequest, context: Context
    ) -> training_pb2.Status:
        """Return how all policies fare: of a service that is stopping, when it has stored what it has learnt."""
        await self._service.until_stored()
        return service_status(self._service)

    def _policy(self, loop: LearningLoop, made: PublishedPolicy) -> training_pb2.Policy:
        return training_pb2.Policy(
            policy_id=loop.policy_id,
            version=made.version,
            lineage=loop.intake.lineage,
            file=made.file,
            first_tick=made.first_tick,
            finished=made.finished,
            rollout_ticks=made.rollout_ticks,
            complete_episodes=made.complete_episodes,
        )


def _metrics(metrics: UpdateMetrics) -> training_pb2.UpdateMetrics:
    return training_pb2.UpdateMetrics(samples=metrics.samples, values=metrics.values)
