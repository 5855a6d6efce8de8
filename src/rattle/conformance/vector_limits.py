"""Checks of limits, paths and methods of the vector API."""

from __future__ import annotations

from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import expect, fail
from rattle.conformance.problems import check_problem
from rattle.conformance.raw import first_line, request_bytes, send_and_leave
from rattle.conformance.target import JSON_TYPE, Target
from rattle.conformance.vector_play import encodings, session
from rattle.conformance.vector_spec import spec

CHECKS = CheckGroup()
_MADE = ("vector.sessions.create",)


@CHECKS.check("vector.limits.body", "A body larger than limits.body_bytes is 413, before it has been sent", _MADE)
def body_limit(target: Target) -> None:
    """The length is in the head: the server need not wait for the rest."""
    most = target.fact(spec)["limits"]["body_bytes"]
    for encoding in target.fact(encodings):
        data = request_bytes(target, "POST", "/v1/sessions", b'{"worlds": 1', encoding.media_type, length=most + 1)
        line = first_line(target, data)
        if line is None:
            fail(
                f"a request that announces {most + 1} bytes is not answered within {target.timeout:g} s: "
                "the server waits for a body that it will not take",
                expected="413 as soon as Content-Length is known",
                got="no answer",
            )
        expect(
            " 413" in line,
            f"a request that announces {most + 1} bytes, more than limits.body_bytes, is answered with '{line}'",
            expected="413",
            got=line,
        )


@CHECKS.check("vector.limits.whole_body", "The 413 is a problem with code too_large", _MADE)
def whole_body(target: Target) -> None:
    """Where the limit is small enough to send that much."""
    most = target.fact(spec)["limits"]["body_bytes"]
    if most > 2**24:
        return
    answer = target.request("POST", "/v1/sessions", content=b" " * (most + 1))
    answer.problem(413, "too_large")


@CHECKS.check("vector.limits.cut_requests", "Requests that are cut off at any byte do not change the server", _MADE)
def cut_requests(target: Target) -> None:
    """In the request line, in the headers, in the body."""
    data = request_bytes(target, "POST", "/v1/sessions", b'{"worlds": 1}', JSON_TYPE)
    for length in (3, 20, len(data) // 2, len(data) - 5):
        send_and_leave(target, data[:length])
    with session(target, 1):
        pass


@CHECKS.check("vector.limits.path", "Paths that do not exist are unknown_path", _MADE)
def path(target: Target) -> None:
    """The same holds for paths next to the routes of sessions."""
    target.request("GET", "/v1/no-such-route").problem(404, "unknown_path")
    with session(target, 1) as opened:
        target.request("GET", f"{opened.path}/no-such-route").problem(404, "unknown_path")


@CHECKS.check("vector.limits.method", "Other methods of a route are wrong_method", _MADE)
def method(target: Target) -> None:
    """405, not 404."""
    target.request("DELETE", "/v1/spec").problem(405, "wrong_method")
    with session(target, 1) as opened:
        target.request("GET", f"{opened.path}/step").problem(405, "wrong_method")
        target.request("PUT", f"{opened.path}/reset", {"step": 1}).problem(405, "wrong_method")


@CHECKS.check("vector.limits.problem", "A problem has type, title, status, detail, error and code", _MADE)
def problem(target: Target) -> None:
    """RFC 9457 and two fields more."""
    check_problem(target.request("GET", "/v1/sessions/rattle-none"), 404, "unknown_session")
    check_problem(target.request("POST", "/v1/sessions", {"worlds": 0}), 400, "bad_value")
