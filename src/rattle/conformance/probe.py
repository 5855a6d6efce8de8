"""Which of the two faces a server has."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from rattle.addresses import CREDENTIALS_VARIABLE, tls_problem
from rattle.conformance.errors import ConformanceError
from rattle.conformance.target import Target

if TYPE_CHECKING:  # the checks are listed where it is not installed too
    import httpx

#: The snake that asks whether there is an agent API.
PROBE = "rattle-check-probe"


def absent_faces(target: Target) -> dict[str, str]:
    """Return the reason for each face that the server lacks.

    Raises ConformanceError where nothing answers, or the server has neither face.
    """
    import httpx

    with target.client() as client:
        vector, _ = _ask(client, "/v1/spec")
        if vector in (401, 403):
            raise ConformanceError(
                f"{target.url} answers {vector}: it wants credentials, as in http://USER:PASSWORD@HOST:PORT, or in "
                f"{CREDENTIALS_VARIABLE}"
            )
        agent, code = _ask(client, f"/snake/{PROBE}")
        if agent == 200:
            with suppress(httpx.HTTPError):  # the probe has joined; a check will say what is wrong with the reset
                client.post("/reset")
    absent = {}
    if agent == 404:
        said = f" ({code})" if code else ""
        absent["agent"] = f"the server has no agent API: GET /snake/{PROBE} is answered with 404{said}"
    if vector == 404:
        absent["vector"] = "the server has no vector API: GET /v1/spec is answered with 404"
    if len(absent) == 2:
        raise ConformanceError(
            f"{target.url} has neither face: GET /snake/{PROBE} and GET /v1/spec are both answered with 404; "
            "docs/env-api.md says what a server must answer"
        )
    return absent


def _ask(client: httpx.Client, path: str) -> tuple[int | None, str | None]:
    """Return the status of a GET, None for a broken answer, and the problem's code."""
    import httpx

    try:
        with client.stream("GET", path) as stream:
            return stream.status_code, _code(stream.read()) if stream.status_code == 404 else None
    except (httpx.ConnectError, httpx.TimeoutException) as error:
        if problem := tls_problem(str(client.base_url), error):
            raise ConformanceError(problem) from None
        what = "nothing answers in time" if isinstance(error, httpx.TimeoutException) else str(error)
        raise ConformanceError(
            f"no server at {client.base_url}: {what}; is it running, and is the port right?"
        ) from None
    except httpx.HTTPError:
        return None, None


def _code(content: bytes) -> str | None:
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return str(body.get("code")) if isinstance(body, dict) else None
