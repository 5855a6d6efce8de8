"""Streams of requests over gRPC: several requests of a stream are answered at a time, in the order of their coming."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from rattle.services.utils.budget import Shares
from rattle.services.utils.grpc_refusals import address_of_peer, answering
from rattle.wire.problems import RequestError

#: Requests of a stream that are answered at a time. The next one is not read before there is room.
_AHEAD = 64
#: What the largest requests of all streams may take while they arrive. It decides how many streams there may be: nobody
#: sees how much of a request has arrived.
_ARRIVING_BYTES = 2**31

_Context = grpc.aio.ServicerContext[Any, Any]
_Answers = asyncio.Queue[asyncio.Task[Message] | None]


class RequestStreams:
    """The streams that are open. `answer` must turn whatever a request contains into an answer."""

    def __init__(self, answer: Callable[[bytes, _Context], Awaitable[Message]], largest: int) -> None:
        self._answer = answer
        self._places = Shares(max(1, _ARRIVING_BYTES // largest), "streams of requests")
        self._reading: set[asyncio.Task[None]] = set()
        self._is_open = True

    def close(self) -> None:
        """Read no more requests: streams end when those that have been read are answered."""
        self._is_open = False
        for reading in self._reading:
            reading.cancel()

    async def serve(self, context: _Context) -> None:
        """Answer the requests of a stream until it ends."""
        async with answering(context):
            with self._places.holding(address_of_peer(context)):
                answers: _Answers = asyncio.Queue()
                room = asyncio.Semaphore(_AHEAD)
                reading = asyncio.create_task(self._read(context, answers, room))
                self._reading.add(reading)
                try:
                    while (answer := await answers.get()) is not None:
                        await context.write(await answer)
                        room.release()
                finally:
                    reading.cancel()
                    self._reading.discard(reading)
                    _cancel(answers)
            if not self._is_open:
                raise RequestError("shutting_down", "the service is stopping")

    async def _read(self, context: _Context, answers: _Answers, room: asyncio.Semaphore) -> None:
        """Have the requests of a stream answered, each by a task of its own; None follows the last one."""

        async def answer(content: bytes) -> Message:
            return await self._answer(content, context)

        try:
            while self._is_open:
                await room.acquire()
                received = await context.read()
                if received is grpc.aio.EOF:
                    return
                answers.put_nowait(asyncio.create_task(answer(received)))
        finally:
            answers.put_nowait(None)


def _cancel(answers: _Answers) -> None:
    while not answers.empty():
        if (answer := answers.get_nowait()) is not None:
            answer.cancel()
