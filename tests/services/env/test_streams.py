"""Mailboxes and streams against a server's `send` that makes them wait, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rattle.services.env.streams import KEPT_LINES, Mailbox, Stream, Streams


@given(st.lists(st.one_of(st.none(), st.binary(min_size=1, max_size=3)), max_size=50))
def test_the_default_keeps_the_newest_line_only(events: list[bytes | None]) -> None:
    mailbox, newest = Mailbox(), b""
    for event in events:
        if event is None:
            assert mailbox.take() == newest
            newest = b""
        else:
            mailbox.put(event, last=False)
            newest = event
        assert len(mailbox) == bool(newest)


@given(st.lists(st.one_of(st.none(), st.binary(min_size=1, max_size=3)), max_size=50))
def test_all_lines_come_in_order(events: list[bytes | None]) -> None:
    mailbox, taken = Mailbox(50), b""
    for event in events:
        if event is None:
            taken += mailbox.take()
        else:
            mailbox.put(event, last=False)
    assert taken + mailbox.take() == b"".join(event for event in events if event)
    assert not mailbox.overfull


def test_the_last_line_is_kept_and_nothing_follows_it() -> None:
    mailbox = Mailbox()
    mailbox.put(b"1", last=False)
    mailbox.put(b"over", last=True)
    mailbox.put(b"2", last=False)
    assert mailbox.ended
    assert mailbox.take() == b"over"


def test_a_mailbox_of_all_lines_that_is_overfull_holds_nothing() -> None:
    mailbox = Mailbox(2)
    for line in (b"1", b"2", b"3", b"4"):
        mailbox.put(line, last=False)
    assert mailbox.overfull
    assert len(mailbox) == 0


class Connection:
    """A client's end: takes messages, or makes the server wait as its flow control does."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.complete = False
        self.writable = asyncio.Event()
        self.writable.set()
        self._gone = asyncio.Event()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await self.writable.wait()
        if message["type"] == "http.response.body":
            assert not self.complete
            self.bodies.append(message["body"])
            self.complete = not message["more_body"]
            if self.complete:
                self._gone.set()

    async def receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    def go(self) -> None:
        self._gone.set()
        self.writable.set()


def run(scene: Callable[[Streams, Stream, Connection, asyncio.Task[None]], Any], all_lines: bool = False) -> None:
    async def play() -> None:
        streams, connection = Streams(), Connection()
        stream = Stream(streams, connection.send, all_lines)
        stream.put(b"first", False)
        serving = asyncio.create_task(stream.serve(connection.receive))
        await settle()
        await scene(streams, stream, connection, serving)
        await asyncio.wait_for(serving, 10)
        assert len(streams) == 0

    asyncio.run(play())


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_ready_reader_gets_every_line_and_the_end() -> None:
    async def scene(streams: Streams, stream: Stream, connection: Connection, serving: asyncio.Task[None]) -> None:
        for line in (b"1", b"2"):
            stream.put(line, False)
            await settle()
        stream.put(b"over", True)
        await settle()
        assert connection.bodies == [b"first", b"1", b"2", b"over"]
        assert connection.complete

    run(scene)


def test_a_reader_that_was_not_ready_gets_the_newest() -> None:
    async def scene(streams: Streams, stream: Stream, connection: Connection, serving: asyncio.Task[None]) -> None:
        connection.writable.clear()
        for number in range(100):
            stream.put(b"%d" % number, False)
            await settle()
        connection.writable.set()
        await settle()
        assert connection.bodies == [b"first", b"0", b"99"]
        connection.writable.clear()
        for line, last in ((b"a", False), (b"b", False), (b"over", True)):
            stream.put(line, last)
            await settle()
        connection.writable.set()
        await settle()
        assert connection.bodies[3:] == [b"a", b"over"]
        assert connection.complete

    run(scene)


def test_a_reader_of_all_lines_that_was_not_ready_gets_all() -> None:
    async def scene(streams: Streams, stream: Stream, connection: Connection, serving: asyncio.Task[None]) -> None:
        connection.writable.clear()
        for number in range(KEPT_LINES):
            stream.put(b"%d " % number, number == KEPT_LINES - 1)
            await settle()
        connection.writable.set()
        await settle()
        assert b"".join(connection.bodies).split() == [b"first0", *(b"%d" % n for n in range(1, KEPT_LINES))]
        assert connection.complete

    run(scene, all_lines=True)


def test_a_reader_of_all_lines_that_is_too_far_behind_is_cut() -> None:
    async def scene(streams: Streams, stream: Stream, connection: Connection, serving: asyncio.Task[None]) -> None:
        connection.writable.clear()
        for number in range(KEPT_LINES + 2):
            stream.put(b"%d" % number, False)
            if number == 0:
                await settle()  # begun to be written: it waits outside the mailbox
        await asyncio.wait_for(serving, 10)
        connection.writable.set()
        await settle()
        assert connection.bodies == [b"first"]
        assert not connection.complete

    run(scene, all_lines=True)


def test_a_reader_that_goes_ends_the_stream_also_while_it_is_written_to() -> None:
    async def scene(streams: Streams, stream: Stream, connection: Connection, serving: asyncio.Task[None]) -> None:
        connection.writable.clear()
        stream.put(b"1", False)
        await settle()
        connection.go()
        await asyncio.wait_for(serving, 10)
        stream.put(b"2", False)
        await settle()
        assert b"2" not in connection.bodies

    run(scene)


def test_readers_that_never_read_are_cut_at_the_end() -> None:
    async def scene(streams: Streams, stream: Stream, connection: Connection, serving: asyncio.Task[None]) -> None:
        connection.writable.clear()
        stream.put(b"1", False)
        await settle()
        stream.put(b"over", True)
        await asyncio.wait_for(streams.end(0.01), 10)
        assert serving.done()
        assert not connection.complete

    run(scene)


def test_a_slow_reader_holds_up_nobody() -> None:
    async def play() -> None:
        streams = Streams()
        connections = [Connection() for _ in range(2000)]
        members = [Stream(streams, connection.send, False) for connection in connections]
        for member in members:
            member.put(b"first", False)
        tasks = [asyncio.create_task(m.serve(c.receive)) for m, c in zip(members, connections, strict=True)]
        await settle()
        for connection in connections[::2]:
            connection.writable.clear()
        for tick in range(5):
            for member in members:
                member.put(b"%d" % tick, False)
            await settle()
        assert all(connection.bodies == [b"first", b"0", b"1", b"2", b"3", b"4"] for connection in connections[1::2])
        for connection in connections:
            connection.go()
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        assert len(streams) == 0

    asyncio.run(play())


def test_a_connection_that_fails_ends_its_own_stream_only() -> None:
    """Whatever the server raises when one stream is written to, the others get their lines."""

    async def play() -> None:
        streams, connection, broken = Streams(), Connection(), Connection()
        failing = False

        async def send(message: MutableMapping[str, Any]) -> None:
            if failing:
                raise RuntimeError("the handler is closed")
            await broken.send(message)

        one, other = Stream(streams, send, False), Stream(streams, connection.send, False)
        serving = [asyncio.create_task(one.serve(broken.receive)), asyncio.create_task(other.serve(connection.receive))]
        await settle()
        failing = True
        for line in (b"1", b"2"):
            one.put(line, False)
            other.put(line, False)
            await settle()
        other.put(b"over", True)
        await asyncio.wait_for(asyncio.gather(*serving), 10)
        assert connection.bodies == [b"1", b"2", b"over"]
        assert len(streams) == 0

    asyncio.run(play())
