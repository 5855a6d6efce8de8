"""The Open Inference Protocol over HTTP: routes, and answers or problems. Plain ASGI."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Sequence
from typing import Any

from rattle.services.inference.metrics import InferenceMetrics
from rattle.services.inference.serving.dataplane import DataPlane
from rattle.services.inference.serving.messages import SMALL_BYTES, InferRequest, ModelMetadata
from rattle.services.inference.serving.rest_bodies import (
    JSON_LENGTH,
    AnswerFormat,
    most_bytes,
    read_request,
    write_response,
)
from rattle.services.inference.serving.tensors import shown
from rattle.services.utils.asgi import (
    ClientGone,
    Receive,
    Scope,
    Send,
    answer,
    answer_problem,
    as_get,
    header,
    may_be_gone,
    read_body,
)
from rattle.wire import encoding
from rattle.wire.problems import RequestError

_BINARY = "application/octet-stream"
_JSON_LENGTH = JSON_LENGTH.lower().encode()


#: How zlib is told what to undo.
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class RestFace:
    """The protocol's routes, and GET /v1/models."""

    def __init__(self, plane: DataPlane, metrics: InferenceMetrics, max_body_bytes: int) -> None:
        self._plane = plane
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        began, status = time.perf_counter(), 200
        scope = as_get(scope)
        try:
            match scope["path"].split("/"):
                case ["", "v2", "models", model, "infer"]:
                    await self._infer(model, "", scope, receive, send)
                case ["", "v2", "models", model, "versions", version, "infer"]:
                    await self._infer(model, version, scope, receive, send)
                case path:
                    if scope["method"] == "GET":
                        await answer(send, 200, encoding.JSON, encoding.json.encode(self._read(path)))
                    else:
                        _check_known(path)
                        _check_method(scope, "GET")
        except RequestError as error:
            status = 499 if may_be_gone(scope)() else error.status
            await answer_problem(send, error)
        except ClientGone:
            status = 499  # nobody sees it; it is what proxies write down
        self._metrics.request("rest", str(status), time.perf_counter() - began)

    async def _infer(self, model: str, version: str, scope: Scope, receive: Receive, send: Send) -> None:
        _check_method(scope, "POST")
        numbers = self._plane.most_numbers(model, version)
        most, coding = min(self._max_body_bytes, most_bytes(numbers)), header(scope, b"content-encoding")
        body = await read_body(scope, receive, most)

        def read() -> tuple[InferRequest, AnswerFormat]:
            return read_request(_decompressed(body, coding, most), header(scope, _JSON_LENGTH), model, version, numbers)

        request, form = read() if coding is None and len(body) <= SMALL_BYTES else await asyncio.to_thread(read)
        said, json_length = write_response(await self._plane.infer(request, None, may_be_gone(scope)), form)
        if json_length is None:
            await answer(send, 200, encoding.JSON, said)
        else:
            await answer(send, 200, _BINARY, said, [(_JSON_LENGTH, str(json_length).encode())])

    def _read(self, path: Sequence[str]) -> dict[str, Any]:
        """Return what is known at a path; raises RequestError."""
        match path:
            case ["", "v2"]:
                return self._plane.server_metadata()._asdict()
            case ["", "v2", "health", "live"]:
                return {"live": True}
            case ["", "v2", "health", "ready"]:
                self._plane.check_ready()
                return {"ready": True}
            case ["", "v2", "models", model]:
                return _described(self._plane.model_metadata(model, ""))
            case ["", "v2", "models", model, "versions", version]:
                return _described(self._plane.model_metadata(model, version))
            case ["", "v2", "models", model, "ready"]:
                self._plane.check_model_ready(model, "")
                return {"name": model, "ready": True}
            case ["", "v2", "models", model, "versions", version, "ready"]:
                self._plane.check_model_ready(model, version)
                return {"name": model, "ready": True}
            case ["", "v1", "models"]:
                return {"models": [_described(metadata) for metadata in self._plane.listing()]}
        raise _unknown(path)


def _check_known(path: Sequence[str]) -> None:
    """Raise RequestError unless there is a route to read at a path, of whatever model."""
    match path:
        case ["", "v2"] | ["", "v2", "health", "live" | "ready"] | ["", "v1", "models"]:
            return
        case ["", "v2", "models", _] | ["", "v2", "models", _, "ready"]:
            return
        case ["", "v2", "models", _, "versions", _] | ["", "v2", "models", _, "versions", _, "ready"]:
            return
    raise _unknown(path)


def _unknown(path: Sequence[str]) -> RequestError:
    return RequestError("unknown_path", f"there is no {shown('/'.join(path))}: docs/serving.md lists the routes")


def _check_method(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise RequestError("wrong_method", f"{scope['path']} takes {method}, not {scope['method']}", allow=method)


def _described(metadata: ModelMetadata) -> dict[str, Any]:
    inputs = [tensor._asdict() for tensor in metadata.inputs]
    outputs = [tensor._asdict() for tensor in metadata.outputs]
    return {**metadata._asdict(), "inputs": inputs, "outputs": outputs}


def _decompressed(body: bytes, coding: str | None, max_bytes: int) -> bytes:
    """Undo a body's Content-Encoding; raises RequestError for one that is not known, damaged, or of too much."""
    if coding is None or coding == "identity":
        return body
    if coding not in _WINDOWS:
        raise RequestError(
            "unsupported_type", f"Content-Encoding must be gzip or deflate, got {shown(coding)}", "Content-Encoding"
        )
    unpacking = zlib.decompressobj(_WINDOWS[coding])
    try:
        unpacked = unpacking.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise RequestError("bad_request", f"the body is no {coding}: {error}") from None
    if len(unpacked) > max_bytes:
        raise RequestError("too_large", f"the unpacked body is larger than the {max_bytes} bytes that are taken here")
    if not unpacking.eof:
        raise RequestError("bad_request", f"the body ends before its {coding} does")
    return unpacked
