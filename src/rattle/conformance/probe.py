"""Which of the two faces a server has."""

from __future__ import annotations

import httpx
import msgspec

from rattle.conformance.errors import ConformanceError
from rattle.conformance.target import Target

#: The snake that asks whether there is an agent API.
PROBE = "rattle-check-probe"


def absent_faces(target: Target) -> dict[str, str]:
    """Return the reason for each face that the server lacks.

    Raises ConformanceError where nothing answers, or the server has neither face.
    """
    try:
        with httpx.Client(base_url=target.url, timeout=target.timeout, trust_env=False) as client:
            vector = client.get("/v1/spec").status_code
            with client.stream("GET", f"/snake/{PROBE}") as stream:
                agent = stream.status_code
                code = _code(stream.read()) if agent == 404 else None
            if agent == 200:
                client.post("/reset")
    except httpx.HTTPError as error:
        raise ConformanceError(
            f"no server answers at {target.url}: {error or type(error).__name__}; is it running, and is the port right?"
        ) from None
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


def _code(content: bytes) -> str | None:
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return str(body.get("code")) if isinstance(body, dict) else None
