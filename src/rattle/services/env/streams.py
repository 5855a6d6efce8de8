"""The streams of the agent API: every reader has a mailbox of bounded size, and is written to when it can take more.

A thousand readers get a line each tick. To wake a coroutine for each would take longer than to write, so a stream's
`send` is begun from one place for all, and only where the server makes it wait does a task continue with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from typing import Any

from rattle.events import emit, of_services
from rattle.services.utils.asgi import Receive, Send

#: Lines that a reader with `?lines=all` may be behind, and their bytes.
KEPT_LINES = 1000
KEPT_BYTES = 2**24
#: Streams that are written to before the event loop looks at other things again.
_BATCH = 256

#: What an answer that streams begins with.
STREAM_HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"application/x-ndjson"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
    ],
}


class Mailbox:
    """Lines that wait for their reader: the newest only, or all up to a number."""

    def __init__(self, kept_lines: int | None = None) -> None:
        self.overfull = False
        self.ended = False  # the last line is in here, or was
        self._kept_lines = kept_lines
        self._lines: deque[bytes] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._lines)

    def put(self, line: bytes, last: bool) -> None:
        """Add a line; a mailbox of all lines that has no room for it is overfull and takes no more."""
        if self.overfull or self.ended:
            return
        if self._kept_lines is None:
            self._lines.clear()
            self._bytes = 0
        elif len(self._lines) >= self._kept_lines or self._bytes + len(line) > KEPT_BYTES:
            self.overfull = True
            self._lines.clear()
            return
        self._lines.append(line)
        self._bytes += len(line)
        self.ended = last

    def take(self) -> bytes:
        """Return all that waits, in order."""
        lines = b"".join(self._lines) if len(self._lines) != 1 else self._lines[0]
        self._lines.clear()
        self._bytes = 0
        return lines


class Streams:
    """All open streams; writes to those that have something, a batch at a time."""

    def __init__(self) -> None:
        self._ready: deque[Stream] = deque()
        self._open: set[Stream] = set()
        self._scheduled = False
        self._nothing_open = asyncio.Event()
        self._nothing_open.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, stream: Stream) -> None:
        """Know an open stream."""
        self._open.add(stream)
        self._nothing_open.clear()

    def remove(self, stream: Stream) -> None:
        """Forget a stream that has ended."""
        self._open.discard(stream)
        if not self._open:
            self._nothing_open.set()

    def make_ready(self, stream: Stream) -> None:
        """Have a stream written to soon."""
        self._ready.append(stream)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._write_batch)

    async def end(self, seconds: float) -> None:
        """Wait until all streams have written their last line; cut those that have not after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._nothing_open.wait()
        except TimeoutError:
            for stream in self._open:
                stream.cut()
            await self._nothing_open.wait()

    def _write_batch(self) -> None:
        for _ in range(min(_BATCH, len(self._ready))):
            stream = self._ready.popleft()
            try:
                stream.write()
            except Exception as error:  # whatever one connection raises, the others continue
                emit(of_services.StreamCut(), error=error)
                stream.cut()
        self._scheduled = bool(self._ready)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._write_batch)


class Stream:
    """One reader's connection: takes lines at any time and writes them as fast as the connection takes them."""

    def __init__(self, streams: Streams, send: Send, all_lines: bool) -> None:
        self._streams = streams
        self._send = send
        self._mailbox = Mailbox(KEPT_LINES if all_lines else None)
        self._queued = True  # waits to be written to, or is being written to: until `serve` has sent the head
        self._closed = False
        self._writing: asyncio.Task[None] | None = None
        self._limit: asyncio.Timeout | None = None

    def put(self, line: bytes, last: bool) -> None:
        """Take a line; a reader that is too far behind is cut off."""
        self._mailbox.put(line, last)
        if self._mailbox.overfull:
            self.cut()
        elif not self._queued and not self._closed:
            self._queued = True
            self._streams.make_ready(self)

    def cut(self) -> None:
        """Break the connection off: its answer stays incomplete, which tells the client that lines are missing."""
        self._closed = True
        if self._writing is not None:
            self._writing.cancel()
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(0.0)

    async def serve(self, receive: Receive) -> None:
        """Answer a request with the stream until its last line is written, its reader has left or it is cut."""
        self._streams.add(self)
        try:
            async with asyncio.timeout(None) as self._limit:
                await self._send(STREAM_HEAD)
                self.write()
                while (await receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            if not self._closed:
                raise
        finally:
            self._closed = True
            self._limit = None
            if self._writing is not None:
                self._writing.cancel()
            self._streams.remove(self)

    def write(self) -> None:
        """Write all that waits, as far as the server takes it at once; a task continues where it does not."""
        self._queued = False
        while self._mailbox and not self._closed:
            message = {"type": "http.response.body", "body": self._mailbox.take(), "more_body": not self._mailbox.ended}
            sending = self._send(message).__await__()
            try:
                waits_for = next(sending)
            except StopIteration:
                continue
            self._queued = True
            self._writing = asyncio.get_running_loop().create_task(self._go_on(_Begun(sending, waits_for)))
            return

    async def _go_on(self, begun: _Begun) -> None:
        try:
            await begun
            self._writing = None
            self.write()
        except Exception as error:  # as in `Streams`
            emit(of_services.StreamCut(), error=error)
            self._writing = None
            self.cut()


class _Begun:
    """An awaitable whose first step has been taken: it continues where that came to wait."""

    def __init__(self, steps: Generator[Any, Any, Any], waits_for: object) -> None:
        self._steps = steps
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            yield self._waits_for
            yield from self._steps
        finally:
            self._steps.close()
