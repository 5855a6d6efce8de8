"""What becomes of calls that gRPC itself refuses: the code is the same for a full server and for a large message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from rattle.clients.errors import ConnectionBroken
from rattle.services.inference.training_link import RolloutRefused, TrainingLink
from rattle.services.utils.grpc_serving import bind, make_server
from rattle.services.utils.guard import Guard
from rattle.services.utils.protos import training_pb2, training_pb2_grpc
from rattle.settings.services import SecuritySection
from rattle.tokens import keep_token, make_token
from tests.flips import FlippingProxy
from tests.services.inference.learner_double import LearnerDouble

LIMIT = 2**16


class Watched(training_pb2_grpc.TrainingServicer):
    """Takes every rollout, and has policies watched for ever."""

    async def ContributeRollouts(  # noqa: N802
        self, request_iterator: AsyncIterator[training_pb2.Rollout], context: object
    ) -> AsyncIterator[training_pb2.Receipt]:
        async for _ in request_iterator:
            yield training_pb2.Receipt()

    async def WatchPolicy(self, request: object, context: object) -> AsyncIterator[training_pb2.Policy]:  # noqa: N802
        yield training_pb2.Policy()
        await asyncio.Event().wait()


def contribute(link: TrainingLink, size: int) -> Exception:
    """Send a rollout that is refused, and return what the link says of that."""
    with pytest.raises(grpc.RpcError) as refused:
        list(link.stub.ContributeRollouts(iter([training_pb2.Rollout(actor="x" * size)])))
    return link.failure(refused.value)


@pytest.mark.parametrize(("is_full", "size", "kind"), [(False, LIMIT + 1, RolloutRefused), (True, 1, ConnectionBroken)])
def test_a_message_that_is_too_large_is_told_from_a_full_server(
    is_full: bool, size: int, kind: type[Exception]
) -> None:
    async def scene() -> Exception:
        server = make_server(LIMIT, 1, Guard("127.0.0.1", SecuritySection()))
        address = bind(server, "127.0.0.1", 0)
        training_pb2_grpc.add_TrainingServicer_to_server(Watched(), server)
        await server.start()
        link, other = TrainingLink(address, 2**24), TrainingLink(address, 2**23)  # connections of their own
        try:
            watching = other.stub.WatchPolicy(training_pb2.WatchPolicyRequest()) if is_full else iter([None])
            await asyncio.to_thread(next, watching)
            return await asyncio.to_thread(contribute, link, size)
        finally:
            link.close()
            other.close()
            await server.stop(0)

    failure = asyncio.run(asyncio.wait_for(scene(), 60))
    assert type(failure) is kind
    assert "RESOURCE_EXHAUSTED" in str(failure)


@pytest.mark.parametrize(
    ("sent", "says"), [(None, "the server asks for a token; name"), ("another-token-altogether", "has another token")]
)
def test_a_token_that_is_wanted_is_said_and_waited_for(tmp_path: Path, sent: str | None, says: str) -> None:
    make_token(tmp_path / "token")
    guard = Guard("127.0.0.1", SecuritySection(token_file=str(tmp_path / "token")))

    async def scene() -> Exception:
        server = make_server(LIMIT, 10, guard)
        address = bind(server, "127.0.0.1", 0)
        await server.start()
        link = TrainingLink(address, 2**20)
        try:
            return await asyncio.to_thread(contribute, link, 1)
        finally:
            link.close()
            await server.stop(0)

    keep_token(sent)
    try:
        failure = asyncio.run(asyncio.wait_for(scene(), 60))
        assert says in str(failure)
        assert type(failure) is ConnectionBroken  # the service may be started again with this token
    finally:
        keep_token(None)


def test_a_connection_that_answers_nothing_is_replaced_by_another() -> None:
    learner = LearnerDouble()
    with FlippingProxy(("127.0.0.1", learner.port), flips=0) as network:
        link = TrainingLink(f"127.0.0.1:{network.port}", 2**20, answer_seconds=1.0)

        def ask() -> grpc.StatusCode:
            with pytest.raises(grpc.RpcError) as refused:  # that the double knows no status is an answer, too
                link.stub.GetStatus(training_pb2.GetStatusRequest(), timeout=60)
            code: grpc.StatusCode = refused.value.code()
            return code

        try:
            assert ask() is grpc.StatusCode.UNKNOWN
            stub = link.stub
            link.replace_if_stuck()
            assert link.stub is stub
            network.swallow()
            link.replace_if_stuck()
            assert link.stub is not stub
            assert ask() is grpc.StatusCode.UNKNOWN
        finally:
            link.close()
            learner.stop()
