"""What is wrong with a request, and how that is said over HTTP (RFC 9457, application/problem+json)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

from rattle.errors import RattleError
from rattle.text import one_line

PROBLEM_TYPE = "application/problem+json"
#: Longer texts are cut. They would not fit into the headers in which gRPC sends them, either.
LONGEST_TEXT = 2000

#: The HTTP status of every code; docs/env-api.md says when the Env service uses them.
STATUS = {
    "bad_request": HTTPStatus.BAD_REQUEST,
    "bad_value": HTTPStatus.BAD_REQUEST,
    "damaged": HTTPStatus.BAD_REQUEST,
    "unauthenticated": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "unknown_path": HTTPStatus.NOT_FOUND,
    "unknown_snake": HTTPStatus.NOT_FOUND,
    "unknown_session": HTTPStatus.NOT_FOUND,
    "unknown_sequence": HTTPStatus.NOT_FOUND,
    "unknown_policy": HTTPStatus.NOT_FOUND,
    "unknown_agent": HTTPStatus.NOT_FOUND,
    "no_agent_api": HTTPStatus.NOT_FOUND,
    "no_history": HTTPStatus.NOT_FOUND,
    "wrong_method": HTTPStatus.METHOD_NOT_ALLOWED,
    "not_acceptable": HTTPStatus.NOT_ACCEPTABLE,
    "wrong_step": HTTPStatus.CONFLICT,
    "conflict": HTTPStatus.CONFLICT,
    "replaced": HTTPStatus.CONFLICT,
    "cannot_replay": HTTPStatus.CONFLICT,
    "run_over": HTTPStatus.CONFLICT,
    "upgrade_required": HTTPStatus.UPGRADE_REQUIRED,
    "too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "unsupported_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "too_late": HTTPStatus.GATEWAY_TIMEOUT,
    "internal": HTTPStatus.INTERNAL_SERVER_ERROR,
    "full": HTTPStatus.SERVICE_UNAVAILABLE,
    "not_ready": HTTPStatus.SERVICE_UNAVAILABLE,
    "starting": HTTPStatus.SERVICE_UNAVAILABLE,
    "shutting_down": HTTPStatus.SERVICE_UNAVAILABLE,
}


class RequestError(RattleError):
    """A request cannot be answered: `code` is one of STATUS, `field` the part of the request that is wrong."""

    def __init__(self, code: str, detail: str, field: str | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.field = field
        self.more = more

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return STATUS[self.code].value


def problem(error: RequestError) -> dict[str, Any]:
    """Return the problem object of an error; its text, which may repeat what a stranger sent, is one printable line."""
    status = STATUS[error.code]
    detail = one_line(error, LONGEST_TEXT)
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "error": detail,
        "code": error.code,
    }
    if error.field is not None:
        body["field"] = one_line(error.field, LONGEST_TEXT)
    return body | error.more


def problem_body(error: RequestError) -> bytes:
    """Return the problem as JSON."""
    return msgspec.json.encode(problem(error))
