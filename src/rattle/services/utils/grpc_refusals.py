"""What calls over gRPC are refused with, and whom they come from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc

from rattle.text import one_line
from rattle.wire.problems import LONGEST_TEXT, RequestError

#: The gRPC status of every code of a RequestError.
STATUS = {
    "bad_request": grpc.StatusCode.INVALID_ARGUMENT,
    "upgrade_required": grpc.StatusCode.UNIMPLEMENTED,
    "bad_value": grpc.StatusCode.INVALID_ARGUMENT,
    "damaged": grpc.StatusCode.DATA_LOSS,
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "unknown_path": grpc.StatusCode.UNIMPLEMENTED,
    "unknown_snake": grpc.StatusCode.NOT_FOUND,
    "unknown_session": grpc.StatusCode.NOT_FOUND,
    "unknown_sequence": grpc.StatusCode.NOT_FOUND,
    "unknown_policy": grpc.StatusCode.NOT_FOUND,
    "unknown_agent": grpc.StatusCode.NOT_FOUND,
    "no_agent_api": grpc.StatusCode.NOT_FOUND,
    "no_history": grpc.StatusCode.NOT_FOUND,
    "wrong_method": grpc.StatusCode.UNIMPLEMENTED,
    "not_acceptable": grpc.StatusCode.INVALID_ARGUMENT,
    "wrong_step": grpc.StatusCode.FAILED_PRECONDITION,
    "conflict": grpc.StatusCode.ALREADY_EXISTS,
    "replaced": grpc.StatusCode.ABORTED,
    "cannot_replay": grpc.StatusCode.FAILED_PRECONDITION,
    "run_over": grpc.StatusCode.FAILED_PRECONDITION,
    "too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unsupported_type": grpc.StatusCode.INVALID_ARGUMENT,
    "too_late": grpc.StatusCode.DEADLINE_EXCEEDED,
    "internal": grpc.StatusCode.INTERNAL,
    "full": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "not_ready": grpc.StatusCode.UNAVAILABLE,
    "starting": grpc.StatusCode.UNAVAILABLE,
    "shutting_down": grpc.StatusCode.UNAVAILABLE,
}


def address_of_peer(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Return the address that a call comes from, without its port."""
    return one_line(context.peer().rpartition(":")[0])


@asynccontextmanager
async def answering(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """End a call with the status of the RequestError that the block raises."""
    try:
        yield
    except RequestError as error:
        await refuse(context, error)


def message_of(error: RequestError) -> str:
    """Return what a caller is told of an error; it begins with the field."""
    text = str(error)
    if error.field is not None and not text.startswith(error.field):
        text = f"{error.field}: {text}"
    return one_line(text, LONGEST_TEXT)


async def refuse(context: grpc.aio.ServicerContext[Any, Any], error: RequestError) -> NoReturn:
    """End a call with the status of an error, and its message."""
    await context.abort(STATUS[error.code], message_of(error))
    raise AssertionError  # abort has raised what ends the call
