"""Checks of the two encodings and of how they are chosen."""

from __future__ import annotations

from rattle.conformance.arrays import JSON, MSGPACK
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import expect, skip
from rattle.conformance.target import JSON_TYPE, MSGPACK_TYPE, Target
from rattle.conformance.vector_play import encodings, expect_same, read_step, session

CHECKS = CheckGroup()
_STEPPED = ("vector.steps.fields",)


@CHECKS.check("vector.encodings.same", "JSON and MessagePack have the same values", _STEPPED)
def same(target: Target) -> None:
    """Two sessions of one seed, one in each encoding."""
    expect(
        MSGPACK in target.fact(encodings),
        "POST /v1/sessions does not take MessagePack: the worlds of a server that speaks JSON only can be checked, but "
        "nothing of Rattle plays or trains in them",
        expected="201 for application/msgpack",
    )
    with session(target, 3, seed=41, encoding=JSON) as text, session(target, 3, seed=41, encoding=MSGPACK) as binary:
        expect_same(text.first, binary.first, "a new session is not the same in JSON and in MessagePack")
        for step in range(120):
            action = text.actions_for(step)
            expect_same(text.step(action), binary.step(action), f"step {step + 1} is not the same in both encodings")


@CHECKS.check("vector.encodings.own", "Without Accept, the answer has the encoding of its request", _STEPPED)
def own(target: Target) -> None:
    """Requests without a body are answered in JSON."""
    with session(target, 1, seed=42) as opened:
        for encoding in target.fact(encodings):
            answer = opened.post("step", {"step": opened.next_step, "action": opened.forward()}, encoding)
            opened.take(read_step(answer.object(), opened.shape))
            _has_type(answer.media_type, encoding.media_type, f"a request in {encoding.name} without Accept")
        answer = target.request("GET", opened.path).expect_status(200)
        _has_type(answer.media_type, JSON_TYPE, "a GET without Accept")


@CHECKS.check("vector.encodings.accept", "Accept chooses the answer's encoding", _STEPPED)
def accept(target: Target) -> None:
    """Whatever the request is in; */* leaves it to the server."""
    with session(target, 1, seed=43) as opened:
        known = target.fact(encodings)
        for sent, wanted in [(sent, other.media_type) for sent in known for other in reversed(known)]:
            action = sent.pack(opened.forward())
            content = sent.encode({"step": opened.next_step, "action": action})
            headers = {"Content-Type": sent.media_type, "Accept": wanted}
            answer = target.request("POST", f"{opened.path}/step", content=content, headers=headers)
            opened.take(read_step(answer.object(), opened.shape))
            _has_type(answer.media_type, wanted, f"a request in {sent.name} with Accept: {wanted}")
        target.request("GET", opened.path, headers={"Accept": "*/*"}).object()


@CHECKS.check("vector.encodings.not_acceptable", "Accept without JSON and MessagePack is not_acceptable", _STEPPED)
def not_acceptable(target: Target) -> None:
    """And uses up no number."""
    with session(target, 1, seed=44) as opened:
        content = JSON.encode({"step": 1, "action": opened.forward().tolist()})
        answer = target.request("POST", f"{opened.path}/step", content=content, headers={"Accept": "text/html"})
        answer.problem(406, "not_acceptable")
        opened.step(opened.forward())


@CHECKS.check("vector.encodings.unsupported", "A body of another Content-Type is unsupported_type", _STEPPED)
def unsupported(target: Target) -> None:
    """And uses up no number."""
    with session(target, 1, seed=45) as opened:
        content = JSON.encode({"step": 1, "action": opened.forward().tolist()})
        for media_type in ("text/plain", "application/x-www-form-urlencoded"):
            answer = target.request(
                "POST", f"{opened.path}/step", content=content, headers={"Content-Type": media_type}
            )
            answer.problem(415, "unsupported_type")
        opened.step(opened.forward())


@CHECKS.check("vector.encodings.malformed", "Bodies that are not valid in their encoding are bad_request", _STEPPED)
def malformed(target: Target) -> None:
    """Cut ones, ones with a tail, and ones of the other encoding."""
    with session(target, 1, seed=46) as opened:
        for encoding in target.fact(encodings):
            other = MSGPACK if encoding is JSON else JSON
            body = {"step": opened.next_step, "action": encoding.pack(opened.forward())}
            whole = encoding.encode(body)
            foreign = other.encode({"step": opened.next_step, "action": other.pack(opened.forward())})
            for content in (whole[:-1], whole + whole, foreign, b"", b"\xc1"):
                answer = target.request(
                    "POST", f"{opened.path}/step", content=content, headers={"Content-Type": encoding.media_type}
                )
                answer.problem(400, "bad_request")
            opened.step(opened.forward())


@CHECKS.check("vector.encodings.parameters", "Content-Type may have a charset, and its case does not matter", _STEPPED)
def parameters(target: Target) -> None:
    """Many clients send it."""
    with session(target, 1, seed=47) as opened:
        content = JSON.encode({"step": 1, "action": opened.forward().tolist()})
        headers = {"Content-Type": "Application/JSON; charset=utf-8"}
        target.request("POST", f"{opened.path}/step", content=content, headers=headers).object()


@CHECKS.check("vector.encodings.problems", "Problems are JSON, also for requests in MessagePack", _STEPPED)
def problems(target: Target) -> None:
    """application/problem+json whatever was asked for."""
    if MSGPACK not in target.fact(encodings):
        skip("the server speaks JSON only")
    with session(target, 1, seed=48, encoding=MSGPACK) as opened:
        opened.post("step", {"step": 9, "action": opened.forward()}).problem(409, "wrong_step")
        headers = {"Accept": MSGPACK_TYPE}
        target.request("GET", "/v1/sessions/rattle-none", headers=headers).problem(404, "unknown_session")


def _has_type(got: str, wanted: str, what: str) -> None:
    expect(got == wanted, f"{what} is answered in {got or 'no Content-Type'}, not {wanted}", expected=wanted, got=got)
