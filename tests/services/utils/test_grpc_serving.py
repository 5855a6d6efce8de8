"""What every gRPC service has: an address of its own, health, reflection, and refusals that name the field."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from rattle.services.utils import grpc_serving
from rattle.services.utils.grpc_health import HealthServices
from rattle.services.utils.grpc_refusals import STATUS, answering
from rattle.services.utils.grpc_serving import bind, make_server
from rattle.services.utils.guard import Guard
from rattle.services.utils.protos import training_pb2, training_pb2_grpc
from rattle.services.utils.sockets import ServiceError, listen
from rattle.settings.services import SecuritySection
from rattle.wire import problems
from rattle.wire.problems import RequestError

NAME = "rattle.v1.Training"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
LIMIT = 2**16
GUARD = Guard("127.0.0.1", SecuritySection())


class Refusing(training_pb2_grpc.TrainingServicer):
    """Answers what it is told to."""

    def __init__(self, error: RequestError | None) -> None:
        self._error = error

    async def GetPolicy(self, request: Any, context: Any) -> training_pb2.Policy:  # noqa: N802
        async with answering(context):
            if self._error is not None:
                raise self._error
        return training_pb2.Policy(policy_id=request.policy_id)


@asynccontextmanager
async def serving(
    error: RequestError | None = None, guard: Guard = GUARD, is_ready: Callable[[], bool] = lambda: True
) -> AsyncIterator[tuple[grpc.aio.Channel, HealthServices, str]]:
    server = make_server(LIMIT, 100, guard)
    address = bind(server, "127.0.0.1", 0)
    training_pb2_grpc.add_TrainingServicer_to_server(Refusing(error), server)
    health = HealthServices(server, [NAME], LIMIT, is_ready)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address, [("grpc.max_send_message_length", 2**24)]) as channel:
            yield channel, health, address
    finally:
        await server.stop(0)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def pinged(address: str, times: int, every_seconds: float) -> int:
    """Ask a server over bare HTTP/2 (RFC 9113, section 6.7) whether it lives; returns how often it answers."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
    answers = 0
    for _ in range(times):
        writer.write(bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + bytes(8))
        await asyncio.sleep(every_seconds)
    with suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        while answers < times:
            head = await asyncio.wait_for(reader.readexactly(9), 30)
            await reader.readexactly(int.from_bytes(head[:3]))
            answers += (head[3], head[4]) == (6, 1)
    writer.close()
    return answers


@pytest.mark.parametrize(("allowed_every_seconds", "is_answered"), [(0, True), (5, False)])
def test_clients_may_ask_whether_it_lives_but_not_too_often(
    monkeypatch: pytest.MonkeyPatch, allowed_every_seconds: int, is_answered: bool
) -> None:
    monkeypatch.setattr(grpc_serving, "_ASKED_EVERY_SECONDS", allowed_every_seconds)

    async def test() -> None:
        async with serving() as (_, _, address):
            assert (await pinged(address, 10, 0.1) == 10) == is_answered

    run(test)


def test_every_code_has_a_status() -> None:
    assert STATUS.keys() == problems.STATUS.keys()


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RequestError("bad_value", "reward: is missing", "reward"), "INVALID_ARGUMENT", "reward: is missing"),
        (RequestError("bad_value", "is missing", "reward"), "INVALID_ARGUMENT", "reward: is missing"),
        (RequestError("unknown_policy", "no policy 'x'"), "NOT_FOUND", "no policy 'x'"),
        (RequestError("shutting_down", "stopping"), "UNAVAILABLE", "stopping"),
        (RequestError("bad_value", "no \x1b[31mname\nhere"), "INVALID_ARGUMENT", "no [31mname here"),
    ],
)
def test_a_refusal_says_its_code_and_the_field(error: RequestError, status: str, message: str) -> None:
    async def test() -> None:
        async with serving(error) as (channel, _, _):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await training_pb2_grpc.TrainingStub(channel).GetPolicy(training_pb2.GetPolicyRequest())
            assert refused.value.code().name == status
            assert refused.value.details() == message

    run(test)


def test_a_server_that_lives_is_not_a_service_that_is_ready() -> None:
    ready = [True]

    async def test() -> None:
        async with serving(is_ready=lambda: ready[0]) as (channel, health, _):
            stub = health_pb2_grpc.HealthStub(channel)

            async def said(name: str) -> int:
                return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status

            watching = stub.Watch(health_pb2.HealthCheckRequest(service=NAME))
            for serves, can_work in ((False, True), (True, True), (True, False), (True, True), (False, True)):
                ready[0] = can_work
                await health.say(serving=serves)
                expected = SERVING if serves and can_work else NOT_SERVING
                assert [await said(""), await said(NAME)] == [SERVING, expected]
                assert (await watching.read()).status == expected
            with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
                await stub.Check(health_pb2.HealthCheckRequest(service="rattle.v1.Nothing"))

    run(test)


def test_services_are_listed_by_reflection() -> None:
    async def test() -> None:
        async with serving() as (channel, _, _):
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            [answer] = [answer async for answer in stub.ServerReflectionInfo(asked)]
            assert NAME in [service.name for service in answer.list_services_response.service]

    run(test)


def test_messages_that_are_too_large_are_refused() -> None:
    async def test() -> None:
        async with serving() as (channel, _, _):
            stub = training_pb2_grpc.TrainingStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.GetPolicy(training_pb2.GetPolicyRequest(policy_id="x" * LIMIT))
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await stub.GetPolicy(training_pb2.GetPolicyRequest(policy_id="x"))).policy_id == "x"

    run(test)


def test_an_address_that_is_taken_is_said_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        async with serving() as (_, _, address):
            port = int(address.rpartition(":")[2])
            with pytest.raises(ServiceError, match=rf"port {port} of 127\.0\.0\.1: Address already in use"):
                bind(make_server(LIMIT, 100, GUARD), "127.0.0.1", port)
        with pytest.raises(ServiceError, match="choose another host"):
            bind(make_server(LIMIT, 100, GUARD), "no host", 0)

    run(test)
    assert capfd.readouterr().err == ""


def test_a_server_has_its_port_for_itself() -> None:
    async def test() -> None:
        async with serving() as (_, _, address):
            with pytest.raises(ServiceError):
                listen("127.0.0.1", int(address.rpartition(":")[2]))

    run(test)


@pytest.mark.parametrize("said", [None, "Bearer another", "the-token-of-these-tests"])
def test_a_server_with_a_token_answers_no_method_but_health_without_it(tmp_path: Path, said: str | None) -> None:
    file = tmp_path / "token"
    file.write_text("the-token-of-these-tests")
    file.chmod(0o600)
    guard = Guard("127.0.0.1", SecuritySection(token_file=str(file)))
    metadata = [] if said is None else [("authorization", said)]

    async def status_of(channel: grpc.aio.Channel, method: str, metadata: list[tuple[str, str]]) -> str:
        call = channel.stream_stream(method)(iter(()), metadata=metadata, timeout=20)
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return "OK"

    async def test() -> None:
        async with serving(guard=guard) as (channel, _, _):
            reflection = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            methods = training_pb2.DESCRIPTOR.services_by_name["Training"].methods
            watch = "/grpc.health.v1.Health/Watch"  # which holds a place for as long as it likes
            for method in [*(f"/{NAME}/{one.name}" for one in methods), reflection, watch, f"/{NAME}/No", "/x/y"]:
                assert await status_of(channel, method, metadata) == "UNAUTHENTICATED", method
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), metadata=metadata)
            right = [("authorization", "Bearer the-token-of-these-tests")]
            stub = training_pb2_grpc.TrainingStub(channel)
            await stub.GetPolicy(training_pb2.GetPolicyRequest(policy_id="p"), metadata=right)
            assert await status_of(channel, "/x/y", right) == "UNIMPLEMENTED"

    run(test)


def test_health_checks_that_send_no_request_leave_places_for_other_calls() -> None:
    async def test() -> None:
        async with (
            serving() as (channel, _, address),
            grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as other,
        ):
            stub = training_pb2_grpc.TrainingStub(other)
            await stub.GetPolicy(training_pb2.GetPolicyRequest())
            calls = [channel.stream_unary("/grpc.health.v1.Health/Check")() for _ in range(100)]
            ended = [asyncio.ensure_future(call.code()) for call in calls]
            await stub.GetPolicy(training_pb2.GetPolicyRequest())
            assert set(await asyncio.gather(*ended)) == {grpc.StatusCode.OK}  # none keeps its place

    run(test)
