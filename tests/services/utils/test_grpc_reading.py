"""Requests over gRPC that are not finished hold a bounded part of the memory, for a bounded time."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rattle.services.utils import budget, grpc_reading
from rattle.services.utils.budget import share
from rattle.services.utils.grpc_health import _STREAMS, RESERVED_CALLS, HealthServices
from rattle.services.utils.grpc_reading import Reading, _followed, _Turns
from rattle.services.utils.grpc_serving import UNPACKED, bind, make_server
from rattle.services.utils.guard import Guard
from rattle.settings.services import SecuritySection
from rattle.wire.problems import RequestError
from tests.services.raw_http2 import RawConnection, raw_connection

LARGE, MOST, CALLS, PATIENCE = 2**21, 2, 100, 60.0


async def _length(received: bytes, context: Any) -> bytes:
    READING.arrived()
    return str(len(received)).encode()


async def _lengths(received: bytes, context: Any) -> AsyncIterator[bytes]:
    yield await _length(received, context)


async def _each(messages: AsyncIterator[bytes], context: Any) -> None:
    async for message in messages:
        await context.write(str(len(message)).encode())


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(_length),
    "Stream": grpc.unary_stream_rpc_method_handler(_lengths),
    "Streams": grpc.stream_stream_rpc_method_handler(_each),
}
READING: Reading


@contextmanager
def serving(*, quick: bool) -> Iterator[str]:
    """Serve the methods in a thread; yields HOST:PORT."""
    global READING
    addresses: list[str] = []
    begun, over = threading.Event(), threading.Event()
    READING = Reading(budget.BUDGET.limit // MOST, quick)

    async def serve() -> None:
        server = make_server(LARGE, CALLS, Guard("127.0.0.1", SecuritySection()), UNPACKED)
        addresses.append(bind(server, "127.0.0.1", 0))
        server.add_generic_rpc_handlers((READING.handlers("test.Test", HANDLERS),))
        health = HealthServices(server, [], LARGE)
        await server.start()
        await health.say(serving=True)
        begun.set()
        await asyncio.to_thread(over.wait)
        await server.stop(0)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert begun.wait(PATIENCE)
    yield addresses[0]
    over.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def asked(address: str, size: int = 5) -> list[bytes]:
    """Return what all methods answer."""
    with grpc.insecure_channel(address) as channel:
        [streamed] = channel.unary_stream("/test.Test/Stream")(bytes(size), timeout=PATIENCE)
        both = list(channel.stream_stream("/test.Test/Streams")(iter([bytes(size), b"x"]), timeout=PATIENCE))
        return [channel.unary_unary("/test.Test/Unary")(bytes(size), timeout=PATIENCE), streamed, *both]


@pytest.mark.parametrize("quick", [True, False])
def test_few_requests_are_read_at_a_time_and_health_is_answered_meanwhile(quick: bool) -> None:
    with serving(quick=quick) as address:
        assert asked(address) == [b"5", b"5", b"5", b"1"]
        with raw_connection(address) as attacker:
            streams = [attacker.begin(f"/test.Test/{method}") for method in ["Unary", "Stream", "Streams"] * 4]
            for number, stream in enumerate(streams):
                is_read = number < MOST * (1 + quick)
                taken = attacker.send(stream, LARGE, LARGE - 1, PATIENCE if is_read else 0.05)
                assert (taken == LARGE + 4) if is_read else taken < 2**18, (number, taken)
            with grpc.insecure_channel(address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                assert health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status == 1
        assert asked(address) == [b"5", b"5", b"5", b"1"]


def test_requests_that_do_not_arrive_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_reading, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(grpc_reading, "_SLOWEST", 2**40)
    with serving(quick=False) as address, raw_connection(address) as attacker:
        streams = [attacker.begin(f"/test.Test/{method}") for method in ["Unary", "Stream", "Streams"] * 2]
        for stream in streams:
            attacker.send(stream, LARGE, 100, 0.05)
        until = time.monotonic() + PATIENCE
        while len(attacker.ended) < len(streams):
            attacker.read(0.05)
            assert time.monotonic() < until
        assert asked(address) == [b"5", b"5", b"5", b"1"]


def test_packed_messages_are_refused_and_not_unpacked() -> None:
    with serving(quick=False) as address, grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/test.Test/Unary")
        with pytest.raises(grpc.RpcError) as refused:
            call(bytes(2**20), timeout=PATIENCE, compression=grpc.Compression.Gzip)
        assert refused.value.code().name == "UNIMPLEMENTED"
        assert call(bytes(2**20), timeout=PATIENCE) == str(2**20).encode()


def test_a_flood_of_calls_that_are_reset_leaves_a_service_that_answers() -> None:
    with serving(quick=True) as address, raw_connection(address) as attacker:
        for _ in range(2000):
            attacker.reset(attacker.begin("/test.Test/Unary"))
        assert asked(address) == [b"5", b"5", b"5", b"1"]


def check(address: str, name: str = "") -> int:
    """Return the status of a service."""
    with grpc.insecure_channel(address) as channel:
        status: int = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), 30).status
        return status


def until_ended(connection: RawConnection, number: int) -> None:
    """Wait until so many streams have ended."""
    until = time.monotonic() + PATIENCE
    while len(connection.ended) < number:
        connection.read(0.05)
        assert time.monotonic() < until, len(connection.ended)


def test_streams_of_health_and_reflection_leave_calls_to_others() -> None:
    with serving(quick=False) as address, raw_connection(address) as attacker:
        watch, reflect = "/grpc.health.v1.Health/Watch", f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
        for number in range(200):
            attacker.send(attacker.begin(watch if number % 2 else reflect), 0, 0, PATIENCE)
        until_ended(attacker, 200 - share(_STREAMS, 0))
        assert check(address) == 1
        assert asked(address) == [b"5", b"5", b"5", b"1"]


def test_questions_for_health_that_are_not_finished_are_answered_and_keep_nobody_waiting() -> None:
    with serving(quick=False) as address, raw_connection(address) as attacker:
        streams = [attacker.begin("/grpc.health.v1.Health/Check") for _ in range(2 * RESERVED_CALLS)]
        taken = sum(attacker.send(stream, LARGE, 1000, 0.001) == 1005 for stream in streams)
        assert check(address) == 1
        until_ended(attacker, len(streams))
        assert taken
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            check(address, "test.Nothing")
        assert asked(address) == [b"5", b"5", b"5", b"1"]


def test_health_is_answered_when_all_calls_are_in_use() -> None:
    with serving(quick=False) as address, raw_connection(address) as attacker:
        for _ in range(CALLS):
            attacker.send(attacker.begin("/test.Test/Streams"), 1, 1, PATIENCE)
        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary("/test.Test/Unary")
            until = time.monotonic() + PATIENCE
            while True:
                try:
                    call(b"x", timeout=PATIENCE)
                except grpc.RpcError as refused:
                    assert refused.details() == f"all {CALLS} calls are in use: end one, or wait"  # noqa: PT017
                    break
                assert time.monotonic() < until
        assert check(address) == 1
        attacker.reset(1)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with suppress(grpc.RpcError), grpc.insecure_channel(address) as channel:
                assert channel.unary_unary("/test.Test/Unary")(b"x", timeout=PATIENCE) == b"1"
                break
        else:
            pytest.fail("the place of a call that has ended is not given again")


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, PATIENCE))


async def settle() -> None:
    """Let all tasks go on as far as they can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_turns_go_round_by_address_whoever_waits_more_often() -> None:
    async def test() -> None:
        turns, order = _Turns(2), list[str]()

        async def take(peer: str) -> None:
            await turns.take(peer)
            order.append(peer)

        tasks = [asyncio.create_task(take(peer)) for peer in ["a"] * 5 + ["b", "b", "c"]]
        await settle()
        assert order == ["a", "a"]
        for peer in ("a", "a", "b", "c", "a", "b"):
            turns.give_back(peer)
            await settle()
        assert order == ["a", "a", "b", "a", "c", "b", "a", "a"]
        await asyncio.gather(*tasks)

    run(test())


def test_one_address_leaves_turns_to_others_where_there_are_several() -> None:
    async def test() -> None:
        turns = _Turns(16)
        waiting = [asyncio.create_task(turns.take("a")) for _ in range(20)]
        await settle()
        assert sum(task.done() for task in waiting) == share(16, 0) == 14
        await turns.take("b")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run(test())


def test_a_turn_that_nobody_takes_any_more_is_given_to_the_next() -> None:
    async def test() -> None:
        turns = _Turns(1)
        await turns.take("a")
        gone, one, two, three = (asyncio.create_task(turns.take(peer)) for peer in "ebcd")
        await settle()
        gone.cancel()  # it is its turn, and it has not left the line yet
        two.cancel()
        turns.give_back("a")
        one.cancel()  # its turn has come, and it does not know yet
        await asyncio.wait((three,))
        assert one.cancelled()
        assert two.cancelled()
        turns.give_back("d")
        await turns.take("a")

    run(test())


def test_messages_that_have_been_worked_on_are_held_no_more_and_known_to_have_been_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted: list[int] = []
    monkeypatch.setattr(budget.BUDGET, "note", noted.append)

    class Content(list[int]):
        """A message that is known to be held or not."""

    async def test() -> None:
        first, second = Content(range(7)), Content(range(9))
        held = [weakref.ref(first), weakref.ref(second)]
        rest: list[Any] = [second, grpc.aio.EOF]

        async def read() -> Any:
            return rest.pop(0)

        messages = _followed(first, read, LARGE)
        del first, second
        assert len(await anext(messages)) == 7
        assert len(await anext(messages)) == 9
        assert [one() is None for one in held] == [True, False]
        assert noted == [7]
        with pytest.raises(StopAsyncIteration):
            await anext(messages)
        assert noted == [7, 9, LARGE]

    run(test())


class SlowCall:
    """A call from an address, whose message is there when it is told."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self.message: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def peer(self) -> str:
        return f"ipv4:{self._peer}:1"

    async def read(self) -> bytes:
        return await self.message


def test_a_slow_request_may_take_longer_than_others_wait_but_for_an_address_that_keeps_all_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpc_reading, "BODY_SECONDS", 0.05)

    async def test() -> None:
        reading = Reading(budget.BUDGET.limit // 2)
        slow: list[Any] = [SlowCall("1.1.1.1") for _ in range(2)]
        asking = [asyncio.create_task(reading.first(one)) for one in slow]
        await asyncio.wait(asking, timeout=0.5)
        assert not any(task.done() for task in asking)  # nobody else waits
        other: Any = SlowCall("2.2.2.2")
        other.message.set_result(b"other")
        assert await reading.first(other) == b"other"
        done, left = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            with pytest.raises(RequestError, match="read at a time"):
                task.result()
        for call in slow:
            call.message.done() or call.message.set_result(b"slow")
        assert [await task for task in left] == [b"slow"] * len(left)
        assert len(left) == 1

    run(test())
