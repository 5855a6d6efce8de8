"""Checks of requests to the agent API that must be refused, and of connections that break."""

from __future__ import annotations

from typing import Any

from rattle.conformance.agent_play import READY, capacity, health
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import expect, fail, skip
from rattle.conformance.problems import check_problem
from rattle.conformance.raw import first_line, request_bytes, send_and_leave
from rattle.conformance.streams import JoinedStream, joined
from rattle.conformance.target import JSON_TYPE, Target

CHECKS = CheckGroup()
_NO_MOVES: tuple[Any, ...] = ("up", "LEFT", "", "left ", 1, None, True, ["left"], {})
#: A server with room for more snakes than this is not filled up.
_MOST_SNAKES = 64
#: More bytes than any server takes for a move.
_HUGE = 2**40


@CHECKS.check("agent.errors.problem", "Refusals are application/problem+json with all fields")
def problem(target: Target) -> None:
    """type, title, status, detail, error and code."""
    check_problem(target.request("GET", "/rattle-no-such-route"), 404, "unknown_path")


@CHECKS.check("agent.errors.moves", "A move other than the three words is bad_value, and field says move", READY)
def moves(target: Target) -> None:
    """Other words, other types, none at all."""
    bodies: list[dict[str, Any]] = [{"move": move} for move in _NO_MOVES]
    with joined(target) as (reader,):
        for body in [*bodies, {}]:
            answer = target.request("POST", f"/snake/{reader.snake}/move", body)
            if answer.status == 200:
                fail(
                    f"{answer.request} is taken for a move: anything but left, right and forward must be refused",
                    expected="400 bad_value, field move",
                    got=str(answer),
                )
            answer.problem(400, "bad_value", "move")


@CHECKS.check("agent.errors.unknown_field", "A field other than move is bad_value, and the answer names it", READY)
def unknown_field(target: Target) -> None:
    """A misspelt field must not be ignored."""
    with joined(target) as (reader,):
        body = {"move": "left", "mvoe": "right"}
        target.request("POST", f"/snake/{reader.snake}/move", body).problem(400, "bad_value", "mvoe")


@CHECKS.check("agent.errors.bodies", "A move whose body is not a JSON object is bad_request", READY)
def bodies(target: Target) -> None:
    """Broken JSON, nothing, NaN, JSON of another type, text that is not UTF-8."""
    with joined(target) as (reader,):
        for content in (b"{", b"", b"left", b"[]", b'"left"', b'{"move": "left"', b"\xff\xfe{}", b'{"move": NaN}'):
            answer = target.request("POST", f"/snake/{reader.snake}/move", content=content)
            answer.problem(400, ("bad_request", "bad_value") if b"NaN" in content else "bad_request")


@CHECKS.check("agent.errors.deep", "A body that is nested very deeply is refused, without a crash", READY)
def deep(target: Target) -> None:
    """100,000 brackets."""
    with joined(target) as (reader,):
        content = b'{"move": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        answer = target.request("POST", f"/snake/{reader.snake}/move", content=content)
        expect(
            answer.status in (400, 413), f"it is answered with status {answer.status}", expected="400", got=str(answer)
        )


@CHECKS.check("agent.errors.large", "A body with a huge Content-Length is refused before it has been sent", READY)
def large(target: Target) -> None:
    """The length is in the head: the server need not wait for the rest."""
    with joined(target) as (reader,):
        path = f"/snake/{reader.snake}/move"
        line = first_line(target, request_bytes(target, "POST", path, b'{"move": "', JSON_TYPE, length=_HUGE))
    if line is None:
        fail(
            f"a request that announces {_HUGE} bytes is not answered within {target.timeout:g} s: "
            "the server waits for a body that it should not take",
            expected="413 as soon as Content-Length is known",
            got="no answer",
        )
    expect(
        " 413" in line, f"a request that announces {_HUGE} bytes is answered with '{line}'", expected="413", got=line
    )


@CHECKS.check("agent.errors.ids", "An id that is not 1 to 64 characters of A-Z a-z 0-9 . _ - is refused")
def ids(target: Target) -> None:
    """400 or 404, on every route."""
    for name in ("a" * 65, "a%20b", "%C3%A4", "a%00", "a%2Fb"):
        for method, path, body in (
            ("GET", f"/snake/{name}", None),
            ("POST", f"/snake/{name}/move", {"move": "left"}),
            ("POST", f"/snake/{name}/reset", None),
        ):
            if method == "GET":
                reader = JoinedStream(target, name)
                reader.wait(lambda reader: reader.status or reader.ended)
                reader.close()
                status = reader.status
            else:
                status = target.request(method, path, body).status
            expect(
                status in (400, 404), f"{method} {path} is answered with {status}", expected="400 or 404", got=status
            )


@CHECKS.check("agent.errors.longest_id", "An id of 64 characters, with each kind of them, is accepted", READY)
def longest_id(target: Target) -> None:
    """As long as it may be."""
    name = (target.new_snake() + ".A_z-0" + "x" * 64)[:64]
    reader = JoinedStream(target, name)
    try:
        reader.first()
    finally:
        reader.close()
        target.request("POST", "/reset")


@CHECKS.check("agent.errors.path", "Paths that do not exist are unknown_path")
def path(target: Target) -> None:
    """Below a snake too."""
    target.request("GET", "/rattle-no-such-route").problem(404, "unknown_path")
    target.request("POST", f"/snake/{target.new_snake()}/jump").problem(404, "unknown_path")


@CHECKS.check("agent.errors.method", "Other methods of a route are wrong_method")
def method(target: Target) -> None:
    """405, not 404."""
    snake = target.new_snake()
    for verb, route in (
        ("GET", "/reset"),
        ("POST", "/state"),
        ("DELETE", "/"),
        ("GET", f"/snake/{snake}/move"),
        ("PUT", f"/snake/{snake}/reset"),
        ("POST", f"/snake/{snake}"),
    ):
        target.request(verb, route).problem(405, "wrong_method")


@CHECKS.check(
    "agent.errors.full",
    "A snake above the capacity is refused with 503 full and Retry-After",
    ("agent.health.capacity", "agent.stream.own"),
)
def full(target: Target) -> None:
    """There is room again after a reset."""
    room = capacity(target)
    if room > _MOST_SNAKES:
        skip(f"capacity is {room}: the checker does not let more than {_MOST_SNAKES} snakes join")
    for left in reversed(range(3)):
        with joined(target, room) as readers:
            one_more = JoinedStream(target, target.new_snake())
            one_more.wait(lambda reader: reader.status or reader.ended)
            one_more.close()
            died = any(reader.over for reader in readers)
        if one_more.status == 200 and died and left:
            continue  # a place became free meanwhile
        if one_more.status == 200 and died:
            skip("snakes died before the world was full")
        if one_more.status != 503:
            one_more.blame(f"snake {room + 1} is let in, though capacity is {room}", expected=503, got=one_more.status)
        expect(one_more.retry_after, "a 503 must say when to try again", expected="Retry-After: seconds")
        break
    with joined(target):
        pass


@CHECKS.check("agent.errors.cut", "Requests that are cut off at any byte do not change the server", READY)
def cut(target: Target) -> None:
    """In the head and in the body of a move; a whole one is taken afterwards."""
    with joined(target) as (reader,):
        path = f"/snake/{reader.snake}/move"
        data = request_bytes(target, "POST", path, b'{"move": "left"}', JSON_TYPE)
        for length in (3, 20, len(data) // 2, len(data) - 4):
            send_and_leave(target, data[:length])
        target.request("POST", path, {"move": "forward"}).object()
    health(target)


@CHECKS.check("agent.errors.garbage", "Bytes that are not HTTP do no harm")
def garbage(target: Target) -> None:
    """As a port scanner sends them."""
    send_and_leave(target, b"\x16\x03\x01\x00\xff\x00\x00\x00\r\n\r\n")
    health(target)


@CHECKS.check(
    "agent.errors.many", "Many connections that open and close do not change the server", ("agent.stream.first",)
)
def many(target: Target) -> None:
    """Fifty readers that hang up at once."""
    snake = target.new_snake()
    head = f"{target.head('GET', f'/snake/{snake}')}\r\n".encode()
    for _ in range(50):
        send_and_leave(target, head)
    target.request("POST", "/reset").object()
    with joined(target):
        pass
