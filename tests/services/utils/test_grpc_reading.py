"""Requests over gRPC that are not finished hold a bounded part of the memory, for a bounded time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rattle.services.utils import budget, grpc_reading
from rattle.services.utils.grpc_reading import Reading
from rattle.services.utils.grpc_serving import UNPACKED, HealthServices, bind, make_server
from rattle.services.utils.guard import Guard
from rattle.settings.services import SecuritySection
from tests.services.raw_http2 import raw_connection

LARGE, MOST, PATIENCE = 2**21, 2, 60.0


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
        server = make_server(LARGE, 100, Guard("127.0.0.1", SecuritySection()), UNPACKED)
        addresses.append(bind(server, "127.0.0.1", 0))
        server.add_generic_rpc_handlers((READING.handlers("test.Test", HANDLERS),))
        health = HealthServices(server, [])
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
