"""A WebSocket on a blocking socket: the protocol is the library's, sans I/O.

The library's own blocking client reads in a thread; handing every message over costs more than a small step does.
"""

from __future__ import annotations

import socket
from collections import deque

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import WebSocketURI

from rattle.addresses import ServerAddress
from rattle.clients.tls_socket import TlsSocket

_READ_BYTES = 2**18


class BlockingWebSocket:
    """Sends a message and receives one, in the calling thread.

    Opening raises OSError, InvalidStatus with the server's answer where it declines, and InvalidHandshake. Sending and
    receiving raise OSError: TimeoutError after `timeout` seconds of silence, ConnectionError when the connection ends.
    """

    def __init__(self, address: ServerAddress, path: str, timeout: float, max_bytes: int) -> None:
        uri = WebSocketURI(address.tls, address.host, address.port, address.prefix + path, "")
        self._events: deque[object] = deque()  # that have come and were not looked at
        self._protocol = ClientProtocol(uri, max_size=max_bytes)
        self._headers = address.headers
        self._socket: socket.socket | TlsSocket
        self._socket = plain = socket.create_connection((address.host, address.port), timeout)
        self._read_into = memoryview(bytearray(_READ_BYTES))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.tls:
                self._socket = TlsSocket(plain, address.host)
            self._shake_hands()
        except BaseException:
            self._socket.close()
            raise

    def send(self, message: bytes) -> None:
        """Send a binary message."""
        if self._protocol.state is not State.OPEN:
            raise ConnectionError("the WebSocket was closed")
        self._protocol.send_binary(message)
        self._flush()

    def receive(self) -> bytes | str:
        """Return the next message, bytes for a binary one and text for a text one."""
        parts: list[bytes] = []
        text = False
        while True:
            self._events.extend(self._protocol.events_received())
            while self._events:
                event = self._events.popleft()
                if not isinstance(event, Frame) or event.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    continue  # pings are answered by the protocol
                text = text or event.opcode is Opcode.TEXT
                parts.append(bytes(event.data))
                if event.fin:
                    whole = parts[0] if len(parts) == 1 else b"".join(parts)
                    return whole.decode(errors="replace") if text else whole
            self._read()

    def close(self) -> None:
        """Say goodbye if there is somebody to hear it, and close."""
        try:
            if self._protocol.state is State.OPEN:
                self._protocol.send_close()
                self._flush()
        except OSError:
            pass  # it is closed already
        finally:
            self._socket.close()

    def _shake_hands(self) -> None:
        request = self._protocol.connect()
        request.headers.update(self._headers)
        self._protocol.send_request(request)
        self._flush()
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            self._read()
        refused = self._protocol.handshake_exc
        if isinstance(refused, InvalidStatus | InvalidHandshake):
            raise refused
        if refused is not None:
            raise ConnectionError(f"the WebSocket was not opened: {refused}")
        self._events.extend(self._protocol.events_received())
        if not self._events or not isinstance(self._events.popleft(), Response):
            raise ConnectionError("the WebSocket was not opened")

    def _read(self) -> None:
        count = self._socket.recv_into(self._read_into)
        if count:
            self._protocol.receive_data(self._read_into[:count])  # type: ignore[arg-type]  # it makes a copy of its own
        else:
            self._protocol.receive_eof()
        self._flush()
        if self._protocol.state is State.CLOSED or (not count and self._protocol.handshake_exc is None):
            reason = (
                self._protocol.parser_exc or self._protocol.close_exc if self._protocol.state is State.CLOSED else ""
            )
            raise ConnectionError(f"the WebSocket was closed: {reason}" if reason else "the WebSocket was closed")

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._socket.sendall(data)
