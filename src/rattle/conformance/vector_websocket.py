"""Checks of the feature websocket: the same messages without a request for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from rattle.conformance.arrays import JSON, MSGPACK, ArrayEncoding
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import an_object, expect, fail, kind, shorten, skip
from rattle.conformance.target import Target, decode, readable
from rattle.conformance.vector_play import (
    CheckedSession,
    encodings,
    expect_same,
    pack,
    read_reset,
    read_step,
    session,
)
from rattle.conformance.vector_spec import spec
from rattle.tls import tls_context

if TYPE_CHECKING:  # the checks are listed where it is not installed too
    from websockets.sync.client import ClientConnection

CHECKS = CheckGroup()
_STEPPED = ("vector.steps.fields",)
_OPEN = ("vector.websocket.text",)


class CheckedSocket:
    """A WebSocket to a session; messages go out and answers are read strictly."""

    def __init__(self, target: Target, opened: CheckedSession, connection: ClientConnection) -> None:
        self._target = target
        self._session = opened
        self._connection = connection
        self.last = b""  # message that came

    def send(self, body: dict[str, Any], encoding: ArrayEncoding = JSON) -> None:
        """Send a message, as text in JSON and as binary in MessagePack."""
        content = encoding.encode(pack(body, encoding))
        self.send_raw(content.decode() if encoding is JSON else content)

    def send_raw(self, message: str | bytes) -> None:
        """Send a message as it is."""
        self._note("websocket sends", message)
        self._connection.send(message)

    def receive(self, encoding: ArrayEncoding = JSON) -> dict[str, Any]:
        """Return the next message, which must be of this encoding."""
        from websockets.exceptions import ConnectionClosed

        try:
            message = self._connection.recv(timeout=self._target.timeout)
        except TimeoutError:
            fail(f"no message comes over the WebSocket within {self._target.timeout:g} s", expected="an answer")
        except ConnectionClosed as closed:
            fail(f"the server closed the WebSocket: {closed}", expected="an answer, and an open connection")
        self._note("websocket brings", message)
        wanted = str if encoding is JSON else bytes
        expect(
            isinstance(message, wanted),
            f"an answer in {encoding.name} must be a {'text' if encoding is JSON else 'binary'} message",
            got=kind(message),
        )
        self.last = content = message.encode() if isinstance(message, str) else message
        try:
            body = decode(encoding.media_type, content)
        except msgspec.DecodeError as error:
            fail(f"a message over the WebSocket is not valid {encoding.name}: {error}", got=message)
        return an_object(body, "a message over the WebSocket")

    def step(self, encoding: ArrayEncoding = JSON) -> Any:
        """Step the session over this connection and return the answer."""
        number = self._session.next_step
        self.send({"step": number, "action": self._session.actions_for(number)}, encoding)
        body = self.receive(encoding)
        _expect_no_problem(body, "a step")
        return self._session.take(read_step(body, self._session.shape))

    def problem(self, status: int, code: str) -> dict[str, Any]:
        """Return the next message, which must be a problem."""
        body = self.receive()
        for name, wanted in (("status", status), ("code", code)):
            got = body.get(name)
            expect(got == wanted, f"{name} of the problem is {got!r}, not {wanted!r}", expected=wanted, got=body)
        return body

    def _note(self, what: str, message: str | bytes) -> None:
        shown = message if isinstance(message, str) else readable(MSGPACK.media_type, message)
        self._target.note(f"{what}  {shorten(shown)}")


@contextmanager
def open_socket(target: Target, opened: CheckedSession) -> Iterator[CheckedSocket]:
    """Open the WebSocket of a session; skips without the feature."""
    from websockets.exceptions import InvalidStatus, WebSocketException

    if "websocket" not in target.fact(spec)["features"]:
        skip("the server does not have the feature websocket")
    address = f"{target.websocket_url}{opened.path}/ws"
    try:
        connection = _connect(target, address)
    except InvalidStatus as error:
        fail(f"GET {opened.path}/ws does not upgrade to a WebSocket: status {error.response.status_code}")
    except (OSError, WebSocketException) as error:
        fail(f"GET {opened.path}/ws does not upgrade to a WebSocket: {error}")
    with connection:
        yield CheckedSocket(target, opened, connection)


def _connect(target: Target, address: str) -> ClientConnection:
    from websockets.sync.client import connect

    return connect(
        address,
        additional_headers=target.address.headers,
        max_size=None,
        proxy=None,
        ssl=tls_context() if target.address.tls else None,
        open_timeout=target.timeout,
        close_timeout=target.timeout,
    )


def _expect_no_problem(body: dict[str, Any], what: str) -> None:
    expect("code" not in body, f"{what} over the WebSocket is refused: {body.get('detail')}", got=body)


@CHECKS.check("vector.websocket.text", "A text message with action is a step, one without action is a reset", _STEPPED)
def text(target: Target) -> None:
    """The answers are those of the HTTP routes."""
    _play(target, JSON)


@CHECKS.check(
    "vector.websocket.binary",
    "Binary messages are MessagePack, and so are their answers",
    (*_OPEN, "vector.encodings.same"),
)
def binary(target: Target) -> None:
    """The same values as over HTTP."""
    _play(target, MSGPACK)


def _play(target: Target, encoding: ArrayEncoding) -> None:
    with (
        session(target, 3, seed=61) as opened,
        session(target, 3, seed=61) as other,
        open_socket(target, opened) as line,
    ):
        for number in range(1, 20):
            wanted = other.step(other.actions_for(number))
            expect_same(wanted, line.step(encoding), "a step over the WebSocket differs from one over HTTP")
        line.send({"step": opened.next_step}, encoding)
        body = line.receive(encoding)
        _expect_no_problem(body, "a reset")
        played = opened.take(read_reset(body, opened.shape))
        expect_same(other.reset(), played, "a reset over the WebSocket differs from one over HTTP")


@CHECKS.check("vector.websocket.problem", "A problem comes as a text message, and the connection stays open", _OPEN)
def problem(target: Target) -> None:
    """Bad values, wrong numbers and messages that cannot be read."""
    with session(target, 2, seed=62) as opened, open_socket(target, opened) as line:
        for encoding in target.fact(encodings):
            action = opened.forward()
            line.send({"step": opened.next_step, "action": action[1:]}, encoding)
            line.problem(400, "bad_value")
            line.send({"step": opened.next_step + 4, "action": action}, encoding)
            found = line.problem(409, "wrong_step")
            expected = found.get("expected")
            expect(expected == opened.next_step, f"expected is {expected!r}", expected=opened.next_step, got=found)
            line.send_raw("{" if encoding is JSON else b"\xc1")
            line.problem(400, "bad_request")
            line.step(encoding)


@CHECKS.check("vector.websocket.numbers", "Step numbers are the same across WebSockets and requests", _OPEN)
def numbers(target: Target) -> None:
    """A client that lost its connection opens another and repeats its last message."""
    with session(target, 3, seed=63) as opened:
        body = {"step": 1, "action": opened.actions_for(1)}
        with open_socket(target, opened) as line:
            first = line.step()
        with open_socket(target, opened) as line:
            line.send(body)
            again = line.receive()
            _expect_no_problem(again, "a step that is repeated on another connection")
            expect_same(
                first, read_step(again, opened.shape), "a step repeated on another WebSocket gets another answer"
            )
        repeated = read_step(opened.post("step", body).object(), opened.shape)
        expect_same(first, repeated, "a step repeated over HTTP gets another answer than over the WebSocket")
        opened.step(opened.actions_for(2))
        with open_socket(target, opened) as line:
            line.step()


@CHECKS.check("vector.websocket.order", "Messages sent ahead are answered in order, each in its own encoding", _OPEN)
def order(target: Target) -> None:
    """A client need not wait for answers."""
    with session(target, 2, seed=64) as opened, open_socket(target, opened) as line:
        if opened.shape.observed.mask is not None:
            skip("which actions are allowed is known only when a step has been answered")
        known = target.fact(encodings)
        sent = [JSON, known[-1], known[-1], JSON]
        for number, encoding in enumerate(sent, start=1):
            line.send({"step": number, "action": opened.actions_for(number)}, encoding)
        for encoding in sent:
            opened.take(read_step(line.receive(encoding), opened.shape))


@CHECKS.check("vector.websocket.unknown", "A WebSocket to an unknown session is refused", _OPEN)
def unknown(target: Target) -> None:
    """With 404, or by closing it at once."""
    from websockets.exceptions import ConnectionClosed, InvalidStatus

    address = f"{target.websocket_url}/v1/sessions/rattle-none/ws"
    target.note(f"a WebSocket to {address}")
    try:
        with _connect(target, address) as connection:
            connection.recv(timeout=target.timeout)
    except InvalidStatus as error:
        status = error.response.status_code
        expect(400 <= status < 500, f"it is refused with status {status}", expected="404", got=status)
        return
    except ConnectionClosed:
        return
    except TimeoutError:
        pass
    fail("a WebSocket to a session that does not exist opens and stays open", expected="404 unknown_session")
