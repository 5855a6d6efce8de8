"""A member at its socket: a service that is away for a while is found again, and nobody else is listened to."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

import pytest
import uvloop

from rattle.clients.lockstep_member import LockstepMember, MemberSettings
from rattle.wire.lockstep import Codec, Gathering, Join, Role
from tests.ports import free_port

CODEC = Codec()
Loop = Callable[[], asyncio.AbstractEventLoop]


def listen(port: int = 0) -> socket.socket:
    service = socket.socket(type=socket.SOCK_DGRAM)
    service.bind(("127.0.0.1", port))
    service.setblocking(False)
    return service


async def hear_join(service: socket.socket) -> tuple[Join, tuple[str, int]]:
    async with asyncio.timeout(20):
        while True:
            try:
                data, address = service.recvfrom(2000)
            except BlockingIOError:
                await asyncio.sleep(0.01)
                continue
            join = CODEC.decode(data)
            assert isinstance(join, Join)
            return join, address


async def until(member: LockstepMember, state: str) -> None:
    async with asyncio.timeout(20):
        while member.state != state:
            await asyncio.sleep(0.01)


def member_of(port: int) -> LockstepMember:
    return LockstepMember(
        MemberSettings(f"127.0.0.1:{port}"), "env-0", Role.ENVIRONMENT, lambda work: None, lambda reason: None
    )


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_service_that_was_away_is_heard_again(loop: Loop) -> None:
    async def go() -> None:
        # Nobody listens: the system tells the member so, again and again.
        port = free_port()
        member = member_of(port)
        member.start()
        await asyncio.sleep(0.3)
        with listen(port) as service:
            join, address = await hear_join(service)
            service.sendto(CODEC.encode(Gathering(join.life, 1, 2)), address)
            await until(member, "gathering")
            await member.leave()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(go())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_service_that_comes_back_at_another_address_is_found(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    services: list[socket.socket] = []
    unknown = threading.Event()

    def look_up(*_: object, **__: object) -> list[tuple[object, ...]]:
        """Answer as the names of containers are answered: not at all while there is none."""
        if not services:
            unknown.set()
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", services[0].getsockname())]

    async def go() -> None:
        with listen() as first, listen() as later:
            services.append(first)
            monkeypatch.setattr(socket, "getaddrinfo", look_up)
            settings = MemberSettings("sync:5555")
            member = LockstepMember(settings, "env-0", Role.ENVIRONMENT, lambda work: None, lambda reason: None)
            member.start()
            join, address = await hear_join(first)
            first.sendto(CODEC.encode(Gathering(join.life, 1, 2)), address)
            await until(member, "gathering")
            services.clear()
            assert await asyncio.to_thread(unknown.wait, 20)
            services.append(later)
            join, address = await hear_join(later)
            later.sendto(CODEC.encode(Gathering(join.life, 1, 2)), address)
            await hear_join(later)  # with the number of the answer, which came from where the service is now
            await member.leave()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(go())


def test_nobody_else_is_listened_to() -> None:
    async def go() -> None:
        with listen() as service, listen() as stranger:
            member = member_of(service.getsockname()[1])
            member.start()
            join, address = await hear_join(service)
            answer = CODEC.encode(Gathering(join.life, 1, 2))
            stranger.sendto(answer, address)
            await hear_join(service)  # it goes on asking
            assert member.state == "joining"
            service.sendto(answer, address)
            await until(member, "gathering")
            await member.leave()

    asyncio.run(go())


def test_settings_that_are_shown_hide_the_key() -> None:
    assert "secret" not in repr(MemberSettings("127.0.0.1:5555", b"a secret of 16 bytes"))
