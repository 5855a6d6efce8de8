"""What every refusal looks like, in both faces."""

from __future__ import annotations

from rattle.conformance.judging import expect
from rattle.conformance.target import HttpAnswer

_FIELDS = ("type", "title", "status", "detail", "error", "code")


def check_problem(answer: HttpAnswer, status: int, code: str) -> None:
    """End the check unless the answer is a whole problem of this status and code."""
    body = answer.problem(status, code)
    for name in _FIELDS:
        expect(name in body, f"the problem lacks {name}", expected=", ".join(_FIELDS), got=str(answer))
    for name in ("title", "detail", "error"):
        text = isinstance(body[name], str) and body[name]
        expect(text, f"{name} of the problem is {body[name]!r}, not a sentence", got=str(answer))
    expect(
        body["status"] == status,
        f"the problem says status {body['status']!r}, but the answer has status {status}",
        expected=f'"status": {status}',
        got=str(answer),
    )
    expect(
        body["error"] == body["detail"],
        "error must repeat detail, for clients that read only that",
        expected=body["detail"],
        got=body["error"],
    )
