"""When the world ticks by turns, without a socket or a clock."""

from __future__ import annotations

import asyncio
import logging
import math
import socket

import pytest

from rattle.services.env.clocks import SyncClock, Turns
from rattle.services.sync.pace import Sealing


def test_a_turn_is_over_when_all_have_moved_or_at_its_deadline() -> None:
    turns = Turns(2.0)
    assert turns.wait(0.0, all_moved=True) == math.inf
    turns.begin(10.0)
    assert turns.wait(10.5, all_moved=False) == pytest.approx(1.5)
    assert turns.wait(10.5, all_moved=True) == 0.0
    assert turns.wait(12.0, all_moved=False) == 0.0
    turns.ticked(12.5)
    assert turns.wait(13.0, all_moved=False) == pytest.approx(1.5)
    turns.end()
    assert turns.wait(13.0, all_moved=True) == math.inf


def test_what_keeps_sealed_datagrams_from_being_ticks_is_said_once_each(caplog: pytest.LogCaptureFixture) -> None:
    """A service that does not hear the nonce, as behind a wall that lets nothing out, and one with another key."""
    key, life, timestamp = b"sixteen bytes at least", "0" * 16, "2026-03-01T12:00:01+00:00"
    deaf, stranger = Sealing(key, life), Sealing(b"another key, as long", life)
    ticked: list[int] = []

    async def go() -> None:
        listener = socket.socket(type=socket.SOCK_DGRAM)
        listener.bind(("127.0.0.1", 0))
        clock = SyncClock(listener, key)
        clock.start(lambda: ticked.append(1))
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            for sequence in range(1, 31):
                sender.sendto(deaf.beat("env", sequence, timestamp), listener.getsockname())
                sender.sendto(stranger.beat("env", sequence, timestamp), listener.getsockname())
                async with asyncio.timeout(60):
                    while clock.datagrams.ignored + clock.datagrams.refused < 2 * sequence:
                        await asyncio.sleep(0)
        await clock.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(go())
    assert ticked == []
    assert caplog.text.count("do not repeat this service's nonce") == 1
    assert caplog.text.count("without the right seal") == 1
