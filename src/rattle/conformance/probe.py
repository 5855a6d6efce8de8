"""Which of the two faces a server has."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from rattle.addresses import CREDENTIALS_VARIABLE, tls_problem, why_no_tls
from rattle.conformance.errors import ConformanceError
from rattle.conformance.target import Target
from rattle.text import one_line
from rattle.tokens import missing_token

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
        vector, problem = _ask(client, "/v1/spec")
        address = target.address
        if vector is None and (wrong := why_no_tls(target.url, address.host, address.port, tls=address.tls)):
            raise ConformanceError(wrong)
        if problem.get("code") == "forbidden":
            raise ConformanceError(f"{target.url} answers {vector}: {one_line(problem.get('detail'), 300)}")
        if problem.get("code") == "unauthenticated":
            raise ConformanceError(f"{target.url} answers {vector}: {missing_token()}")
        if vector in (401, 403):
            raise ConformanceError(
                f"{target.url} answers {vector}: it wants credentials, as in http://USER:PASSWORD@HOST:PORT, or in "
                f"{CREDENTIALS_VARIABLE}"
            )
        agent, problem = _ask(client, f"/snake/{PROBE}")
        if agent == 200:
            with suppress(httpx.HTTPError):  # the probe has joined; a check will say what is wrong with the reset
                client.post("/reset", json={})
    absent = {}
    if agent == 404:
        said = f" ({one_line(problem['code'], 60)})" if "code" in problem else ""
        absent["agent"] = f"the server has no agent API: GET /snake/{PROBE} is answered with 404{said}"
    if vector == 404:
        absent["vector"] = "the server has no vector API: GET /v1/spec is answered with 404"
    if len(absent) == 2:
        raise ConformanceError(
            f"{target.url} has neither face: GET /snake/{PROBE} and GET /v1/spec are both answered with 404; "
            "docs/env-api.md says what a server must answer"
        )
    return absent


def _ask(client: httpx.Client, path: str) -> tuple[int | None, dict[str, Any]]:
    """Return the status of a GET, None for a broken answer, and the problem, empty where there is none."""
    import httpx

    try:
        with client.stream("GET", path) as stream:
            return stream.status_code, _problem(stream.read()) if stream.status_code in (401, 403, 404) else {}
    except (httpx.ConnectError, httpx.TimeoutException) as error:
        if problem := tls_problem(str(client.base_url), error):
            raise ConformanceError(problem) from None
        what = "nothing answers in time" if isinstance(error, httpx.TimeoutException) else str(error)
        raise ConformanceError(
            f"no server at {client.base_url}: {what}; is it running, and is the port right?"
        ) from None
    except httpx.HTTPError as error:
        if problem := tls_problem(str(client.base_url), error):
            raise ConformanceError(problem) from None
        return None, {}


def _problem(content: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return body if isinstance(body, dict) else {}
