"""The vector API over HTTP and WebSocket: plain ASGI, for a request costs little more than its worlds."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from rattle.events import emit, of_services
from rattle.samples.spaces import ActionSpace
from rattle.services.env.metrics import EnvMetrics
from rattle.services.env.sessions import Message, RequestKey, Session, Sessions, environment_failed
from rattle.services.env.shared_sessions import SharedSessions
from rattle.services.utils.asgi import (
    ClientGone,
    Receive,
    Scope,
    Send,
    answer,
    answer_problem,
    decline,
    header,
    peer_of,
    read_body,
)
from rattle.wire import encoding
from rattle.wire.arrays import Array, ReusedArray, unpack
from rattle.wire.checksums import DamagedMessage, note_damage
from rattle.wire.encoding import Encoding
from rattle.wire.problems import RequestError, problem_body
from rattle.wire.vector import CheckedRequest, ResetRequest, RestoreRequest, SessionRequest, SocketRequest, StepRequest

Request = TypeVar("Request", bound=CheckedRequest)

#: The largest body that asks for a session: options are a few settings, and small lists of lists take much memory.
_SESSION_BYTES = 2**16
#: What a step may have next to its actions, and for each number of them: up to 24 characters, a comma and a blank.
_STEP_BYTES, _NUMBER_BYTES = 2**12, 26
#: Numbers in an answer that become JSON in the event loop: it takes some milliseconds.
_INLINE_NUMBERS = 2**16
#: Longer bodies are remembered by their hash.
_KEPT_BYTES = 2**12
#: Codes of a WebSocket that was closed by a client that said so: 1005 is a goodbye without a code.
_GOODBYES = (1000, 1001, 1005)
PREFIX = "/v1/sessions"


class VectorFace:
    """Decodes requests to sessions, calls the use cases, encodes what they answer."""

    def __init__(self, sessions: Sessions, metrics: EnvMetrics, max_body_bytes: int) -> None:
        self.shared = SharedSessions(sessions, metrics)
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose path begins with PREFIX."""
        began = time.perf_counter()
        try:
            body = await read_body(scope, receive, self._max_body_bytes)
            status, message, encoded = await self._dispatch(scope, body)
            said = message if isinstance(message, bytes) else await _encode(encoded, message)
        except ClientGone:
            return
        except Exception as failure:  # the edge of the service: an environment may raise anything
            error = _as_request_error(failure)
            await answer_problem(send, error)
            self._metrics.request("vector", error.status, time.perf_counter() - began)
            return
        await answer(send, status, encoded.media_type, said)
        self._metrics.request("vector", status, time.perf_counter() - began)

    async def socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry the messages of one session over a WebSocket until the client closes it."""
        try:
            session_id = _session_of_socket(scope["path"])
            self.shared.check(session_id)
            self.shared.socket_opened(session_id)
        except RequestError as error:
            await decline(receive, send, error)
            return
        self._metrics.sockets.inc()
        received: Any = {}
        try:
            await receive()
            await send({"type": "websocket.accept"})
            while (received := await receive())["type"] == "websocket.receive":
                await send(await self._socket_message(session_id, scope, received))
        finally:
            self._metrics.sockets.dec()
            # uvicorn says 1005 of a connection that was lost, too; only what a client has said comes with a reason.
            said_goodbye = "reason" in received and received["code"] in _GOODBYES
            self.shared.socket_closed(session_id, broken=not said_goodbye)

    async def _dispatch(self, scope: Scope, body: bytes) -> tuple[int, Message | bytes, Encoding]:
        spoken = encoding.of_request(header(scope, b"content-type"), has_body=bool(body))
        _check(spoken, body, scope)
        spoken_back = encoding.of_answer(header(scope, b"accept"), spoken)
        method, parts = scope["method"], _parts(scope["path"])
        match parts:
            case []:
                _check_method(method, "POST")
                _check_length(body, _SESSION_BYTES, "a request for a session")
                asked = _decode(spoken, body, SessionRequest)
                return 201, await self.shared.create(asked, peer_of(scope)), spoken_back
            case [session_id]:
                _check_method(method, "GET", "DELETE")
                if method == "DELETE":
                    await self.shared.delete(session_id)
                    return 204, b"", spoken_back
                return 200, await self.shared.call(session_id, Session.info), spoken_back
            case [session_id, "step" | "reset" as kind]:
                _check_method(method, "POST")
                message = await (self._step if kind == "step" else self._reset)(session_id, spoken, body)
                return 200, message, spoken_back
            case [session_id, "state"]:
                _check_method(method, "GET", "POST")
                if method == "GET":
                    return 200, await self.shared.call(session_id, _packed_state), encoding.msgpack
                return 200, await self._restore(session_id, spoken, body), spoken_back
            case [session_id, "worlds", number]:
                _check_method(method, "GET")
                world = _world_number(number)
                return 200, await self.shared.call(session_id, lambda session: session.snapshot(world)), spoken_back
            case [_, "ws"]:
                _check_method(method, "GET")
                detail = "this route takes a WebSocket: a proxy on the way must pass on Upgrade and Connection"
                raise RequestError("upgrade_required", detail, upgrade="websocket")
        raise RequestError("unknown_path", f"there is no {scope['path']}: docs/env-api.md lists the routes")

    async def _step(self, session_id: str, spoken: Encoding, body: bytes) -> Message:
        space = self._check_size(session_id, body)
        if spoken is encoding.msgpack:
            packed = _decode(spoken, body, StepRequest[Array])
            number, action, shown = packed.step, unpack(packed.action, "action"), packed.snapshots
        else:
            listed = _decode(spoken, body, StepRequest[msgspec.Raw])
            number, action, shown = listed.step, _listed_actions(listed.action, space), listed.snapshots
        return await self.shared.step(session_id, number, action, _key("step", body), shown)

    async def _reset(self, session_id: str, spoken: Encoding, body: bytes) -> Message:
        _check_length(body, _STEP_BYTES, "a reset")
        request = _decode(spoken, body, ResetRequest)
        key = _key("reset", body)
        return await self.shared.call(session_id, lambda session: session.reset(request.step, request.seed, key))

    async def _restore(self, session_id: str, spoken: Encoding, body: bytes) -> Message:
        if spoken is not encoding.msgpack:
            raise RequestError("unsupported_type", f"a state travels as {encoding.MSGPACK}", "Content-Type")
        number, state, key = await asyncio.to_thread(_read_state, body)
        return await self.shared.call(session_id, lambda session: session.restore(number, state, key))

    async def _socket_message(self, session_id: str, scope: Scope, received: Any) -> dict[str, Any]:
        binary: bytes | None = received.get("bytes")
        body = binary if binary is not None else received["text"].encode()
        spoken = encoding.msgpack if binary is not None else encoding.json
        began = time.perf_counter()
        try:
            if len(body) > self._max_body_bytes:
                raise RequestError("too_large", f"a message may have {self._max_body_bytes} bytes")
            _check(spoken, body, scope)
            message = await _encode(spoken, await self._socket_request(session_id, spoken, body))
        except Exception as failure:  # as in `http`
            error = _as_request_error(failure)
            self._metrics.request("socket", error.status, time.perf_counter() - began)
            return {"type": "websocket.send", "text": problem_body(error).decode()}
        self._metrics.request("socket", 200, time.perf_counter() - began)
        if binary is None:
            return {"type": "websocket.send", "text": message.decode()}
        return {"type": "websocket.send", "bytes": message}

    def _check_size(self, session_id: str, body: bytes) -> ActionSpace:
        """Refuse, before it is decoded, what is longer than any step of a session: decoding holds up all others.

        Return the space of the session's actions.
        """
        slots, space = self.shared.actions_of(session_id)
        brackets = 2 * len(space.shape)
        most = _STEP_BYTES + (_NUMBER_BYTES + brackets) * slots * math.prod(space.shape)
        _check_length(body, most, "a step of this session")
        return space

    async def _socket_request(self, session_id: str, spoken: Encoding, body: bytes) -> Message:
        space = self._check_size(session_id, body)
        action: NDArray[Any] | None = None
        if spoken is encoding.msgpack:
            packed = _decode(spoken, body, SocketRequest[Array])
            number, seed, shown = packed.step, packed.seed, packed.snapshots
            if isinstance(packed.action, Array):
                action = unpack(packed.action, "action")
        else:
            listed = _decode(spoken, body, SocketRequest[msgspec.Raw])
            number, seed, shown = listed.step, listed.seed, listed.snapshots
            if isinstance(listed.action, msgspec.Raw):
                action = _listed_actions(listed.action, space)
        if action is None:
            if shown:
                raise RequestError("bad_value", "snapshots: a reset takes none, only a step does", "snapshots")
            key = _key("reset", body)
            return await self.shared.call(session_id, lambda session: session.reset(number, seed, key))
        if seed is not None:
            raise RequestError("bad_value", "seed: a step takes none, only a reset does", "seed")
        return await self.shared.step(session_id, number, action, _key("step", body), shown)


def _check(spoken: Encoding, body: bytes, scope: Scope) -> None:
    """Hold a request to its checksum, if it ends in one, before anything else is made of it."""
    try:
        if spoken is encoding.msgpack:
            encoding.check(body)
    except DamagedMessage as error:
        note_damage("{}:{}".format(*(scope.get("client") or ("a client", "?"))), str(error))
        raise RequestError("damaged", f"the request arrived damaged: {error}: send it again") from None


def _decode(spoken: Encoding, body: bytes, request: type[Request]) -> Request:
    """Return a request that `_check` has let pass."""
    decoded = spoken.decode(body, request)
    if decoded.crc32c is not msgspec.UNSET and (spoken is encoding.json or not encoding.has_checksum(body)):
        raise RequestError("bad_value", "crc32c: is the last member of a request in MessagePack", "crc32c")
    return decoded


def _packed_state(session: Session) -> bytes:
    return encoding.pack_checked(session.state())


def _read_state(body: bytes) -> tuple[int, dict[str, NDArray[Any]], RequestKey]:
    """Return number, arrays and key of a request to restore a state, which takes long for one of megabytes."""
    request = _decode(encoding.msgpack, body, RestoreRequest)
    state = {name: unpack(array, f"state.{name}") for name, array in request.state.items()}
    return request.step, state, _key("state", body)


async def _encode(spoken: Encoding, message: Message) -> bytes:
    """Return a message as bytes; many numbers become JSON in a thread."""
    if spoken is encoding.msgpack:
        return encoding.pack_checked(message)
    arrays = {name: value.array for name, value in message.items() if isinstance(value, ReusedArray)}
    arrays |= {name: value for name, value in message.items() if isinstance(value, np.ndarray)}
    if sum(array.size for array in arrays.values()) <= _INLINE_NUMBERS:
        return spoken.encode(message)
    kept = {name: array.copy() for name, array in arrays.items()}  # the next step writes into the same arrays
    return await asyncio.to_thread(spoken.encode, message | kept)


def _parts(path: str) -> list[str]:
    """Return what a path says after PREFIX."""
    return path.removeprefix(PREFIX).split("/")[1:]


def _session_of_socket(path: str) -> str:
    match _parts(path) if path.startswith(PREFIX) else []:
        case [session_id, "ws"]:
            return session_id
    raise RequestError("unknown_path", f"there is no WebSocket at {path}: only at {PREFIX}/SESSION/ws")


def _key(kind: str, body: bytes) -> RequestKey:
    return kind, body if len(body) <= _KEPT_BYTES else hashlib.blake2b(body).digest()


def _as_request_error(failure: Exception) -> RequestError:
    """Return what to tell the client; whatever is not about its request goes into the log as well."""
    if isinstance(failure, RequestError) and failure.code != "internal":
        return failure
    error = failure if isinstance(failure, RequestError) else environment_failed(failure)
    emit(of_services.RequestFailed(error=str(error)), error=error.__cause__ or failure)
    return error


def _check_method(method: str, *allowed: str) -> None:
    if method not in allowed:
        names = ", ".join(allowed)
        raise RequestError("wrong_method", f"this route takes {names}, not {method}", allow=names)


def _check_length(body: bytes, most: int, what: str) -> None:
    if len(body) > most:
        raise RequestError("too_large", f"{what} has at most {most} bytes")


def _world_number(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > 10:
        raise RequestError("bad_value", f"world must be a number from 0, got {text!r}", "world")
    return int(text)


def _listed_actions(action: msgspec.Raw, space: ActionSpace) -> NDArray[Any]:
    """Return actions that came as nested lists in JSON; raises RequestError."""
    rows: Any = int if space.dtype.kind == "i" else float
    for _ in range(1 + len(space.shape)):
        rows = list[rows]
    try:
        with np.errstate(over="ignore"):  # what is too large is infinite, and refused as such
            return np.array(encoding.json.decode(action, rows, "action"), space.dtype)
    except OverflowError:
        raise RequestError("bad_value", "action: a number does not fit into 64 bits", "action") from None
    except ValueError:
        raise RequestError("bad_value", "action: lists at the same level differ in length", "action") from None
