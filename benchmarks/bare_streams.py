"""The floor of `agent_streams`: a server without games that writes a line to everybody, ten times a second."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime

import uvloop

TICKS_A_SECOND = 10
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
_MOVED = b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"moved": 1}'
_CELLS = json.dumps({f"{x},{y}": "EMPTY" for x in range(8) for y in range(8)}, separators=(",", ":")).encode()

_LINE = b'{"snake_id":"anna","tick":%d,"visible_cells":%s,"reward":0.0,"game_over":false,"datetime":"%s","length":3}\n'


class Bare(asyncio.Protocol):
    """One connection."""

    readers: set[asyncio.Transport] = set()  # noqa: RUF012 - of all connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember it."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer."""
        if data.startswith(b"GET"):
            self._transport.write(_HEAD)
            self.readers.add(self._transport)
        else:
            self._transport.write(_MOVED)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.readers.discard(self._transport)


async def run(host: str) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Bare, host, 0, backlog=2048)
    print(json.dumps({"url": f"http://{host}:{server.sockets[0].getsockname()[1]}"}), flush=True)
    tick, began = 0, time.monotonic()
    while True:
        tick += 1
        await asyncio.sleep(max(0.0, began + tick / TICKS_A_SECOND - time.monotonic()))
        line = _LINE % (tick, _CELLS, datetime.now(UTC).isoformat().encode())
        chunk = b"%x\r\n%s\r\n" % (len(line), line)
        for transport in list(Bare.readers):
            transport.write(chunk)


def serve(host: str) -> None:
    """Be the server."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(host))
