"""Connections that bound what a client can hold: how long it may be silent, how much it may send, how little it reads.

The server's own protocols wait forever for the rest of a request's head, keep heads of any size, and keep answers
for a client that never reads them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from rattle.services.utils import budget
from rattle.services.utils.asgi import BODY_SECONDS, CONNECTION, Message, Receive, Scope, Send, answer_problem
from rattle.services.utils.peers import CONNECTIONS
from rattle.wire.problems import PROBLEM_TYPE, RequestError, problem_body

#: A connection that asks nothing, or reads nothing of its answer, for this long is closed, in seconds.
IDLE_SECONDS = 75.0
#: The largest head of a request, in bytes.
HEAD_BYTES = 2**16
#: A WebSocket that was ended while its client sends is read on for this long, in seconds.
_LINGER_SECONDS = 5.0
#: Messages that a WebSocket may be ahead of what has been answered.
_MESSAGES_AHEAD = 2
#: Bytes of chunk headers and trailers that may come with a byte of a body.
_WRAPPING = 16


class _UnreadAnswers:
    """Breaks a connection off whose client reads nothing while the server has something to write."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    _unread: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]
        self._look_again()

    def resume_writing(self) -> None:
        self._stop_looking()
        super().resume_writing()  # type: ignore[misc]

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_looking()
        super().connection_lost(exc)  # type: ignore[misc]

    def _look_again(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(IDLE_SECONDS, self._break_off_unless_read, left)

    def _stop_looking(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _break_off_unless_read(self, left: int) -> None:
        if self.transport.get_write_buffer_size() < left or self._may_wait():
            self._look_again()
        else:
            self.transport.abort()

    def _may_wait(self) -> bool:
        """Return whether the client may read as late as it likes."""
        return False


class _Exchange:
    """A request and its answer, on a connection that may close at any moment."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self.cycle = cycle
        self.ends_with_connection = False
        self._takes_body = True
        self._held = 0  # bytes of the budget
        self._is_full = False  # there was no room for the body

    def hold(self, size: int) -> bool:
        """Hold a part of the body; False where there is no room for it, then or before."""
        if self._is_full or not budget.BUDGET.take(size, self._held):
            self._is_full = True
            self.cycle.keep_alive = False
            self.cycle.message_event.set()
            return False
        self._held += size
        return True

    def give_back(self) -> None:
        """Hold nothing of the body any more."""
        budget.BUDGET.give_back(self._held)
        self._held = 0

    async def receive(self) -> Message:
        """Return the next part of the body; `stopping` says that no more of it is read.

        Raises RequestError (full) when there was no room for it; what is still read of it is dropped.
        """
        message: Message = await self.cycle.receive()  # type: ignore[assignment]
        if self._is_full and self._takes_body:
            self._takes_body = False
            self.give_back()
            raise budget.BUDGET.full()
        if not self._takes_body and self.cycle.more_body and not self._is_full:
            return {"type": "http.disconnect", "stopping": not self.cycle.disconnected}
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; what is for a client that has gone is dropped."""
        if self.cycle.transport.is_closing():  # uvloop raises where asyncio only warns
            self.cycle.disconnected = True
        elif self.cycle.scope["http_version"] == "1.0":
            self._avoid_chunks(message)
        await self.cycle.send(message)  # type: ignore[arg-type]

    def leave(self) -> None:
        """Tell the request that its client has left."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def refuse_body(self) -> None:
        """Read no more of the body."""
        self._takes_body = False
        self.cycle.keep_alive = False
        self.cycle.message_event.set()

    def _avoid_chunks(self, message: Message) -> None:
        """Let an answer without a length end with its connection: HTTP/1.0 knows no chunks."""
        if message["type"] == "http.response.start":
            self.ends_with_connection = all(name.lower() != b"content-length" for name, _ in message["headers"])
            if self.ends_with_connection:
                self.cycle.chunked_encoding = False
        elif self.ends_with_connection:
            self.cycle.expected_content_length = len(message.get("body", b""))


class BoundedHttpConnection(_UnreadAnswers, HttpToolsProtocol):
    """An HTTP connection with bounds; what it cannot read it answers with a problem.

    Requests that are sent before the last one is answered wait in line. The server's own protocol knows only the
    newest of them; this one tells all of them when the client has left.
    """

    _received = 0  # bytes since the last request was complete
    _body = 0  # of these, the body's
    _silent_until: float | None = None  # when the head of a request must be complete
    _upgraded = False
    peer = ""
    _is_counted = False
    _wrong = ""  # what is wrong with a head that is HTTP

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, and not forever."""
        super().connection_made(transport)
        self._exchanges: deque[_Exchange] = deque()  # the first one is being answered
        self._service, self.app = self.app, self._answer
        self._wait_for_head()
        self.peer = self.client[0] if self.client else ""
        self._is_counted = True
        CONNECTIONS.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request that its client has left."""
        for exchange in self._exchanges:
            exchange.leave()
            exchange.give_back()
        self._leave()
        super().connection_lost(exc)

    def make_room(self) -> None:
        """Leave the connections and close at once."""
        self._leave()
        self.transport.abort()

    def _leave(self) -> None:
        if self._is_counted:
            self._is_counted = False
            CONNECTIONS.hear(self)
            CONNECTIONS.leave(self.peer)

    def shutdown(self) -> None:
        """Close when the answers are written."""
        self.refuse_bodies()
        super().shutdown()

    def refuse_bodies(self) -> None:
        """Wait for no body that is still on its way."""
        for exchange in self._exchanges:
            if exchange.cycle.more_body:
                exchange.refuse_body()

    def data_received(self, data: bytes) -> None:
        """Continue with a request."""
        self._received += len(data)
        super().data_received(data)
        if self._upgraded or self.transport.is_closing():
            return
        waiting = self._waits_for_head()
        if self._received - (_WRAPPING + 1) * self._body > HEAD_BYTES:
            if waiting:
                self.send_400_response(f"the head of a request may have {HEAD_BYTES} bytes")
            else:
                self.transport.abort()
        elif waiting and self.timeout_keep_alive_task is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        CONNECTIONS.hear(self)
        self._silent_until = None
        self.scope["extensions"] = {CONNECTION: {"is_gone": self.transport.is_closing}}
        if sum(name == b"host" for name, _ in self.headers) != 1 and self.parser.get_http_version() == "1.1":
            self._wrong = "a request of HTTP/1.1 has one Host header (RFC 9112, 3.2)"
            raise ValueError(self._wrong)
        known = self.cycle
        super().on_headers_complete()
        if self.cycle is not known:
            self._exchanges.append(_Exchange(self.cycle))

    def on_response_complete(self) -> None:
        """Continue with the next request in line."""
        self._exchanges.popleft()
        super().on_response_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._body += len(body)
        if not self._exchanges or self._exchanges[-1].hold(len(body)):
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Know where a request ends."""
        self._received = self._body = 0
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to another protocol."""
        self._upgraded = True
        super().handle_websocket_upgrade()
        upgraded = self.transport.get_protocol()
        if isinstance(upgraded, SocketConnection):
            upgraded.peer = self.peer  # which the system does not know any more of a connection that has gone

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; in the middle of another answer, only close."""
        if self._waits_for_head():
            body = problem_body(RequestError("bad_request", self._wrong or msg))
            head = f"content-type: {PROBLEM_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head.encode() + body)
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close; at once where the client has not even read the last answer."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _waits_for_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait_for_head(self) -> None:
        now = self.loop.time()
        if self._silent_until is None:
            self._silent_until = now + IDLE_SECONDS
        self.timeout_keep_alive_task = self.loop.call_later(self._silent_until - now, self.timeout_keep_alive_handler)

    def _may_wait(self) -> bool:
        # Streams keep the newest line for anyone who reads late; a whole answer is not kept forever.
        if not self._exchanges:
            return False
        answered = self._exchanges[0]
        return bool(answered.cycle.chunked_encoding or answered.ends_with_connection)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the service answer; a request that takes longer than the server's patience is told that it stops."""
        exchange = self._exchanges[0]
        try:
            await self._service(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            if exchange.cycle.response_started:
                exchange.cycle.disconnected = True
                self.transport.abort()
            else:
                await answer_problem(
                    exchange.send, RequestError("shutting_down", "the service is stopping"), close=True
                )
        finally:
            exchange.give_back()


class SocketConnection(_UnreadAnswers, WebSocketsSansIOProtocol):
    """A WebSocket with bounds, which continues reading while a message or two are worked on.

    To stop and continue with every message, as the server's own protocol does, costs two calls of the system.
    """

    peer = ""
    _arrived = 0  # bytes since the last whole message, or since a ping or pong between messages
    _growing = 0  # bytes of the budget, of a long message that is not complete
    _held = 0  # bytes of the budget, of long messages that are
    _unfinished: asyncio.TimerHandle | None = None  # ends the wait for the rest of a long message
    _failed = False

    def data_received(self, data: bytes) -> None:
        """Continue with a message; one for which there is no room ends the connection."""
        if self._failed:
            return
        self._arrived += len(data)
        if self._arrived > HEAD_BYTES and not self._hold(len(data)):
            self._fail(1013, "full: try again in a while")
            return
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hold nothing any more."""
        self._complete()
        self._give_back()
        CONNECTIONS.leave(self.peer)  # it was counted before it became a WebSocket
        super().connection_lost(exc)

    def receive(self) -> Coroutine[Any, Any, Any]:  # not async itself, as this happens with every step
        """Return the next message; what came before it has been worked on."""
        if self._held and self.queue.empty():
            self._give_back()
        return super().receive()

    def _hold(self, size: int) -> bool:
        if not budget.BUDGET.take(size, self._arrived):
            return False
        self._growing += size
        if self._unfinished is None:
            self._unfinished = self.loop.call_later(BODY_SECONDS, self._end_wait)
        return True

    def _give_back(self) -> None:
        budget.BUDGET.give_back(self._held)
        self._held = 0

    def _end_wait(self) -> None:
        """Close where the rest of a message has not arrived in time, unless it was this side that did not read."""
        if self.read_paused:
            self._unfinished = self.loop.call_later(BODY_SECONDS, self._end_wait)
        else:
            self._fail(1008, f"the message did not arrive within {BODY_SECONDS:.0f} seconds")

    def _complete(self) -> None:
        """Begin with the next message."""
        self._arrived = 0
        if self._unfinished is not None:
            self._unfinished.cancel()
            self._unfinished = None
            self._held += self._growing
            self._growing = 0

    def _fail(self, code: int, reason: str) -> None:
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def handle_parser_exception(self) -> None:
        """Say why the connection ends, and drop what the client still sends until it has read that.

        A socket that is closed before everything is read resets the connection, and the client would lose the reason.
        """
        sent = self.conn.close_sent
        code, reason = (sent.code, sent.reason) if sent else (1006, "")
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.stop_keepalive()
        self.close_sent = self._failed = True
        self._give_up_message()
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)
        if self.transport.can_write_eof():  # not over TLS
            self.transport.write_eof()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def handle_ping(self) -> None:
        """Answer a ping, which is no part of a message."""
        self._forget_control_frame()
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Know that the client is there."""
        self._forget_control_frame()
        super().handle_pong(event)

    def _forget_control_frame(self) -> None:
        if not self.frames:  # between two messages
            self._give_up_message()

    def _give_up_message(self) -> None:
        budget.BUDGET.give_back(self._growing)
        self._growing = 0
        self._complete()

    async def run_asgi(self) -> None:
        """Have the service answer; a handshake that it declines with a whole answer is complete as well.

        Else the server's own protocol would write an error for each.
        """
        service = self.app

        async def answered(scope: Scope, receive: Receive, send: Send) -> None:
            await service(scope, receive, send)
            self.handshake_complete = self.handshake_complete or self.close_sent

        self.app = answered
        await super().run_asgi()

    def send_receive_event_to_app(self) -> None:
        """Hand on a message."""
        self._complete()
        stop_reading = self.read_paused or self.queue.qsize() >= _MESSAGES_AHEAD
        self.read_paused = self.read_paused or not stop_reading  # it only stops where it has not
        super().send_receive_event_to_app()
        self.read_paused = stop_reading
