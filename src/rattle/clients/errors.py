"""What goes wrong between a client and its environment server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rattle.addresses import CREDENTIALS_VARIABLE
from rattle.errors import RattleError
from rattle.text import one_line
from rattle.tokens import missing_token

#: Longer texts are cut, in characters.
_LONGEST_TEXT = 2000
#: The longest text of a server that a message repeats, in characters.
_LONGEST_DETAIL = 300


class ClientError(RattleError):
    """A server cannot be reached, refuses a request, or answers something that is no answer.

    The text, which may repeat what the server sent, is made one printable line.
    """

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text, _LONGEST_TEXT))


class ConnectionBroken(ClientError):
    """A request was not answered: the server may or may not have acted on it."""


class NotSent(ConnectionBroken):
    """No connection could be made: the server has not seen the request."""


class NoAnswer(ConnectionBroken):
    """The server took too long."""


class DamagedAnswer(ConnectionBroken):
    """What the server sent was damaged on the way."""


class NotTrusted(ClientError):
    """There is no connection, and TLS is why: what has to be fixed is a setting, a certificate or a clock."""


class RunOver(ConnectionBroken):
    """The Training service takes nothing any more: the run has failed, or has ended. It may be continued."""


class BadAnswer(ClientError):
    """The server sent something that its API does not allow."""


class RequestRefused(ClientError):
    """The server refused a request; `status`, `code` and `field` are those of its problem (docs/env-api.md).

    `retry_after` is how many seconds the server asks to wait before the next try.
    """

    retry_after: float = 0.0

    def __init__(self, detail: str, status: int, code: str = "", field: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.field = field

    @property
    def is_failure(self) -> bool:
        """Whether the server itself failed, as it does where its environment fails: trying again helps nobody."""
        return self.status == 500

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may be taken later.

        The server is full, starting, stopping or behind a proxy, or the request was damaged on the way.
        """
        return self.status in (429, 502, 503, 504) or self.code == "damaged"


def refusal(status: int, problem: Mapping[str, Any] | None) -> RequestRefused:
    """Return the error for an answer with a status of 400 or more; `problem` is None where it was no problem object."""
    problem = problem or {}
    detail = one_line(problem.get("detail") or problem.get("error") or problem.get("title") or "", _LONGEST_DETAIL)
    if problem.get("code") == "unauthenticated":
        detail = missing_token()
    elif status in (401, 403) and problem.get("code") != "forbidden":
        said = f" and said: {detail}" if detail else ""
        detail = f"the server answered {status}{said}: it wants credentials, as in "
        detail += f"http://USER:PASSWORD@HOST:PORT, or in {CREDENTIALS_VARIABLE}"
    field = problem.get("field")
    return RequestRefused(
        detail or f"the server answered {status} without saying why",
        status,
        one_line(problem.get("code", ""), _LONGEST_DETAIL),
        None if field is None else one_line(field, _LONGEST_DETAIL),
    )
