"""One connection to an environment server: HTTP with keep-alive, and the WebSocket of a session.

Requests are sent and answers received apart, so that several connections can have one in flight each.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from rattle.clients.addresses import broken_connection, check_status, no_connection, read_address, why_of
from rattle.clients.errors import ClientError, ConnectionBroken, DamagedAnswer, NotTrusted, refusal
from rattle.tls import tls_context
from rattle.wire.encoding import MSGPACK

if TYPE_CHECKING:
    from rattle.clients.blocking_websocket import BlockingWebSocket

#: The largest answer that is taken, in bytes.
MAX_ANSWER_BYTES = 2**28


class Connection(Protocol):
    """Sends one step or reset at a time and receives its answer."""

    def send(self, kind: str, body: bytes) -> None:
        """Send a step or reset; raises ConnectionBroken."""

    def receive(self) -> bytes:
        """Return its answer; raises ConnectionBroken, or Refused with the server's problem."""

    def close(self) -> None:
        """Close; a closed connection opens again with the next `send`."""


class HttpConnection:
    """HTTP/1.1 with keep-alive to one server, on the standard library: the quickest for small bodies."""

    def __init__(self, url: str, timeout: float, accept: str = MSGPACK) -> None:
        address = read_address(url)
        self._prefix = address.prefix
        self._headers = {"Accept": accept} | address.headers
        self._http = (
            http.client.HTTPSConnection(address.host, address.port, timeout=timeout, context=tls_context())
            if address.tls
            else http.client.HTTPConnection(address.host, address.port, timeout=timeout)
        )
        self._path = ""
        self._address = address
        self._has_answered = False
        self.url = address.url  # as messages show it

    def send(self, method: str, path: str, body: bytes | None = None, media_type: str = MSGPACK) -> None:
        """Send a request; raises ConnectionBroken."""
        headers = self._headers if body is None else {"Content-Type": media_type, **self._headers}
        self._path = path
        try:
            if self._http.sock is None:
                self._http.connect()  # which sets TCP_NODELAY
        except OSError as error:
            self.close()
            raise no_connection(self.url, error, why_of(error), ConnectionBroken) from None
        try:
            self._http.request(method, self._prefix + path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from None

    def receive(self) -> bytes:
        """Return the answer's body; raises ConnectionBroken, Refused for a status of 400 or more, or BadAnswer."""
        try:
            answer = self._http.getresponse()
            body = answer.read(MAX_ANSWER_BYTES)
            if answer.length:  # bytes that were announced and have not come
                raise http.client.IncompleteRead(body, answer.length)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._broken(error) from None
        self._has_answered = True
        if answer.status >= 400:
            raise refusal(answer.status, _problem(body))
        check_status(self.url, self._path, answer.status, answer.headers["Location"], allowed=(200, 201, 204))
        return body

    def _broken(self, error: Exception) -> ClientError:
        self.close()
        return broken_connection(self._address, error, is_first=not self._has_answered)

    def wait_for_answers(self, seconds: float) -> None:
        """Take this as the time-out from the next connection on."""
        self.close()
        self._http.timeout = seconds

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Send a request and return its answer."""
        self.send(method, path, body)
        return self.receive()

    def close(self) -> None:
        """Close; the next request opens it again."""
        self._http.close()


class HttpSteps:
    """Steps of one session as requests."""

    def __init__(self, connection: HttpConnection, session: str) -> None:
        self._connection = connection
        self._path = f"/v1/sessions/{session}/"

    def send(self, kind: str, body: bytes) -> None:
        """Send a step or reset."""
        self._connection.send("POST", self._path + kind, body)

    def receive(self) -> bytes:
        """Return its answer."""
        return self._connection.receive()

    def close(self) -> None:
        """Close; the next `send` opens it again."""
        self._connection.close()


class NoWebSocket(ClientError):
    """Something between here and the server does not let WebSockets pass."""


class SocketSteps:
    """Steps of one session over its WebSocket: without a request for each."""

    def __init__(self, url: str, session: str, timeout: float) -> None:
        self._address = read_address(url)
        self._path = f"/v1/sessions/{session}/ws"
        self._url = f"ws{self._address.url.removeprefix('http')}{self._path}"
        self._timeout = timeout
        self._has_answered = False
        self._socket: BlockingWebSocket | None = None

    def send(self, kind: str, body: bytes) -> None:
        """Send a step or reset, whose kind shows in its fields; raises NoWebSocket too."""
        try:
            if self._socket is None:
                self._socket = self._open()
                self._has_answered = True
            self._socket.send(body)
        except OSError as error:
            self.close()
            said = no_connection(self._url, error, why_of(error), ConnectionBroken)
            cause = said if self._has_answered else broken_connection(self._address, error, is_first=True)
            raise cause if isinstance(cause, NotTrusted) else said from None

    def receive(self) -> bytes:
        """Return its answer."""
        if self._socket is None:
            raise ConnectionBroken(f"no connection to {self._url}")
        try:
            answer = self._socket.receive()
        except OSError as error:
            self.close()
            raise ConnectionBroken(f"{self._url} broke the connection: {why_of(error)}") from None
        if isinstance(answer, bytes):
            return answer
        problem = _problem(answer.encode())
        if problem is None or not isinstance(status := problem.get("status"), int):
            self.close()
            raise DamagedAnswer(f"{self._url} sent a text that is no problem")
        raise refusal(status, problem)

    def close(self) -> None:
        """Close; the next `send` opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> BlockingWebSocket:
        from websockets.exceptions import InvalidHandshake, InvalidStatus

        from rattle.clients.blocking_websocket import BlockingWebSocket

        try:
            return BlockingWebSocket(self._address, self._path, self._timeout, MAX_ANSWER_BYTES)
        except InvalidStatus as error:
            refused = refusal(error.response.status_code, _problem(bytes(error.response.body or b"")))
            if refused.code == "unknown_session" or refused.is_temporary:
                raise refused from None
            raise NoWebSocket(f"{self._url}: {refused}") from None  # plain requests will show what else is wrong
        except InvalidHandshake as error:
            raise NoWebSocket(f"{self._url}: {why_of(error)}") from None


def _problem(body: bytes) -> dict[str, Any] | None:
    try:
        problem = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return problem if isinstance(problem, dict) else None
