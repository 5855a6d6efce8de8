"""Messages of gRPC that are damaged on the way are noticed on both sides; peers without checksums are understood."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import pytest

from rattle.clients.errors import DamagedAnswer
from rattle.services.utils import checked_messages
from rattle.services.utils.checked_messages import CheckedServer, _MessageReader, checked, whole
from rattle.services.utils.grpc_refusals import answering
from rattle.services.utils.grpc_serving import bind, make_server
from rattle.services.utils.guard import Guard
from rattle.services.utils.protos import training_pb2, training_pb2_grpc
from rattle.settings.services import SecuritySection
from rattle.wire.checksums import DamagedMessage, add_checksum, damaged_messages

ROLLOUT = training_pb2.Rollout(
    actor="one", sequence=7, reward=training_pb2.Tensor(dtype=training_pb2.DTYPE_FLOAT32, shape=[2], data=bytes(8))
)
NAME = b"\xa5\x06"  # field 100 with four bytes


def flipped(message: bytes, bit: int) -> bytes:
    damaged = bytearray(message)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_a_rollout_with_a_flipped_bit_is_never_taken_for_another() -> None:
    sent = add_checksum(ROLLOUT.SerializeToString(), NAME)
    for bit in range(8 * len(sent)):
        reader = _MessageReader(training_pb2.Rollout.FromString)
        assert reader.read(sent) == ROLLOUT
        with pytest.raises(DamagedMessage):
            reader.read(flipped(sent, bit))
        assert reader.read(sent) == ROLLOUT


def test_a_message_that_was_cut_where_a_field_ends_is_noticed_after_a_whole_one() -> None:
    bare = ROLLOUT.SerializeToString()
    reader = _MessageReader(training_pb2.Rollout.FromString)
    reader.read(add_checksum(bare, NAME))
    with pytest.raises(DamagedMessage, match="no checksum"):
        reader.read(bare)
    assert reader.read(bare) == ROLLOUT  # another service has come, which knows no checksums


class Echo(training_pb2_grpc.TrainingServicer):
    """Answers with what it was sent."""

    async def GetPolicy(self, request: Any, context: Any) -> training_pb2.Policy:  # noqa: N802
        return training_pb2.Policy(policy_id=request.policy_id, version=3)

    async def WatchPolicy(self, request: Any, context: Any) -> AsyncIterator[training_pb2.Policy]:  # noqa: N802
        yield training_pb2.Policy(policy_id=request.policy_id, version=request.known_version)

    async def ContributeRollouts(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        async with answering(context):
            async for rollout in request_iterator:
                await context.write(training_pb2.Receipt(sequence=rollout.sequence))


def with_echo(scene: Callable[[grpc.aio.Channel], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        server = make_server(2**20, 100, Guard("127.0.0.1", SecuritySection()))
        address = bind(server, "127.0.0.1", 0)
        training_pb2_grpc.add_TrainingServicer_to_server(Echo(), CheckedServer(server, 2**20, ()))  # type: ignore[abstract,arg-type]
        await server.start()
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                await scene(channel)
        finally:
            await server.stop(0)

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("wrap", [checked, lambda channel: channel])
def test_clients_with_and_without_checksums_are_answered_alike(wrap: Callable[[Any], Any]) -> None:
    async def scene(channel: grpc.aio.Channel) -> None:
        stub: Any = training_pb2_grpc.TrainingStub(wrap(channel))
        assert whole(await stub.GetPolicy(training_pb2.GetPolicyRequest(policy_id="p")), "it").policy_id == "p"
        async for policy in stub.WatchPolicy(training_pb2.WatchPolicyRequest(known_version=4)):
            assert whole(policy, "it").version == 4
        async for receipt in stub.ContributeRollouts(iter([ROLLOUT])):
            assert whole(receipt, "it").sequence == 7

    with_echo(scene)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("GetPolicy", training_pb2.GetPolicyRequest(policy_id="p")),
        ("WatchPolicy", training_pb2.WatchPolicyRequest(known_version=4)),
        ("ContributeRollouts", ROLLOUT),
    ],
)
def test_a_damaged_request_is_refused_as_such_and_counted(method: str, message: Any) -> None:
    sent = flipped(add_checksum(message.SerializeToString(), NAME), -1)

    async def scene(channel: grpc.aio.Channel) -> None:
        path, before = f"/rattle.v1.Training/{method}", damaged_messages()
        raw: Any = channel
        if method == "GetPolicy":
            answer = raw.unary_unary(path)(sent)
        elif method == "WatchPolicy":
            answer = raw.unary_stream(path)(sent).read()
        else:
            answer = raw.stream_stream(path)(iter([sent])).read()
        with pytest.raises(grpc.aio.AioRpcError, match="arrived damaged") as refused:
            await answer
        assert refused.value.code() is grpc.StatusCode.DATA_LOSS
        assert damaged_messages() == before + 1

    with_echo(scene)


def test_a_shape_of_very_many_numbers_is_refused_before_it_is_parsed() -> None:
    rollout = training_pb2.Rollout(reward=training_pb2.Tensor(shape=[1] * 2**17))

    async def scene(channel: grpc.aio.Channel) -> None:
        raw: Any = channel
        call = raw.stream_stream("/rattle.v1.Training/ContributeRollouts")(iter([rollout.SerializeToString()]))
        with pytest.raises(grpc.aio.AioRpcError, match="too many numbers") as refused:
            await call.read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    with_echo(scene)


def test_long_messages_are_read_in_a_thread_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_messages, "_LONG_BYTES", 1000)
    threads: list[bool] = []
    read = _MessageReader.read

    def noted(self: _MessageReader, received: bytes) -> Any:
        threads.append(threading.current_thread() is not threading.main_thread())
        return read(self, received)

    async def scene(channel: grpc.aio.Channel) -> None:
        stub: Any = training_pb2_grpc.TrainingStub(channel)
        rollouts = [
            training_pb2.Rollout(sequence=number, actor="x" * length) for number, length in enumerate((2000, 1))
        ]
        answers = stub.ContributeRollouts(iter(rollouts))
        assert [receipt.sequence async for receipt in answers] == [0, 1]

    monkeypatch.setattr(_MessageReader, "read", noted)
    with_echo(scene)
    assert threads == [True, False]


def test_a_damaged_answer_is_no_answer() -> None:
    class Damaging:
        """A network that flips a bit of what the server answers."""

        def __init__(self, channel: grpc.aio.Channel) -> None:
            self._channel = channel

        def __getattr__(self, kind: str) -> Any:
            def make(path: str, response_deserializer: Callable[[bytes], Any], **more: Any) -> Any:
                read = lambda received: response_deserializer(flipped(received, 3))  # noqa: E731
                return getattr(self._channel, kind)(path, response_deserializer=read, **more)

            return make

    async def scene(channel: grpc.aio.Channel) -> None:
        stub: Any = training_pb2_grpc.TrainingStub(checked(Damaging(channel)))  # type: ignore[arg-type]
        with pytest.raises(DamagedAnswer, match="the trainer sent a message that arrived damaged"):
            whole(await stub.GetPolicy(training_pb2.GetPolicyRequest(policy_id="p")), "the trainer")

    with_echo(scene)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_rollouts_of_too_many_fields_are_refused_before_they_are_parsed(is_damaged: bool) -> None:
    many = training_pb2.UpdatePolicyRequest(rollout=training_pb2.Rollout(state=[""] * 40_000))
    sent = add_checksum(many.SerializeToString(), NAME)
    sent = flipped(sent, -1) if is_damaged else sent

    async def scene(channel: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.RpcError) as refused:
            await channel.unary_unary("/rattle.v1.Training/UpdatePolicy")(sent)
        code = refused.value.code().name
        assert code == ("DATA_LOSS" if is_damaged else "RESOURCE_EXHAUSTED")

    with_echo(scene)
