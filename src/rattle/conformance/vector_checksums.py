"""Checks of the feature crc32c: answers end in their checksums, and requests that do not fit theirs change nothing."""

from __future__ import annotations

import struct
from typing import Any

from rattle.conformance.arrays import MSGPACK
from rattle.conformance.checks import CheckGroup
from rattle.conformance.judging import expect, skip
from rattle.conformance.target import MSGPACK_TYPE, Target
from rattle.conformance.vector_play import CheckedSession, pack, read_step, session
from rattle.conformance.vector_spec import spec
from rattle.conformance.vector_websocket import open_socket

CHECKS = CheckGroup()
_SAME = ("vector.encodings.same",)
_ANSWERS = ("vector.checksums.answers",)
#: How the last member of a message begins: "crc32c", and four bytes.
_MEMBER = b"\xa6crc32c\xc4\x04"


def _crc32c(content: bytes) -> bytes:
    import google_crc32c  # the checks are listed where it is not installed too

    return struct.pack("<I", google_crc32c.value(content))


def _with_checksum(body: dict[str, Any]) -> bytes:
    begun = MSGPACK.encode({**pack(body, MSGPACK), "crc32c": bytes(4)})[:-4]
    return begun + _crc32c(begun)


def _expect_checksum(content: bytes, what: str) -> None:
    expect(
        content[-4 - len(_MEMBER) : -4] == _MEMBER,
        f"{what} in MessagePack does not end in the member crc32c of four bytes",
        expected=f"{_MEMBER.hex(' ')} and four bytes at the end",
        got=content[-4 - len(_MEMBER) :].hex(" "),
    )
    wanted = _crc32c(content[:-4])
    expect(
        content[-4:] == wanted,
        f"{what} ends in another checksum than its own",
        expected=f"{wanted.hex(' ')}: the CRC-32C of the {len(content) - 4} bytes before it, little-endian",
        got=content[-4:].hex(" "),
    )


def _needs_feature(target: Target) -> None:
    if "crc32c" not in target.fact(spec)["features"]:
        skip("the server does not have the feature crc32c")


def _step(opened: CheckedSession) -> dict[str, Any]:
    return {"step": opened.next_step, "action": opened.forward()}


def _damaged(content: bytes) -> list[bytes]:
    """Return a message with one bit flipped: in its last action, where it begins, and in the checksum itself."""
    places = (content.index(_MEMBER) - 1, 0, len(content) - 2)
    return [content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] for place in places]


@CHECKS.check("vector.checksums.answers", "Answers in MessagePack end in their checksums", _SAME)
def answers(target: Target) -> None:
    """Of every route, also where the request has no checksum."""
    _needs_feature(target)
    accept = {"Accept": MSGPACK_TYPE}
    _expect_checksum(target.request("GET", "/v1/spec", headers=accept).expect_status(200).content, "GET /v1/spec")
    with session(target, 2, seed=71, encoding=MSGPACK) as opened:
        answer = opened.post("step", _step(opened)).expect_status(200)
        opened.take(read_step(answer.object(), opened.shape))
        _expect_checksum(answer.content, "a step's answer")
        answer = opened.post("reset", {"step": opened.next_step}).expect_status(200)
        _expect_checksum(answer.content, "a reset's answer")
        answer = target.request("GET", opened.path, headers=accept).expect_status(200)
        _expect_checksum(answer.content, "the answer about a session")


@CHECKS.check("vector.checksums.requests", "A request that does not fit its checksum is damaged", _ANSWERS)
def requests(target: Target) -> None:
    """It uses up no number: the client sends it again."""
    _needs_feature(target)
    headers = {"Content-Type": MSGPACK_TYPE}
    with session(target, 2, seed=72, encoding=MSGPACK) as opened:
        path, whole = f"{opened.path}/step", _with_checksum(_step(opened))
        for content in _damaged(whole):
            target.request("POST", path, content=content, headers=headers).problem(400, "damaged")
        answer = target.request("POST", path, content=whole, headers=headers).expect_status(200)
        opened.take(read_step(answer.object(), opened.shape))


@CHECKS.check(
    "vector.checksums.websocket",
    "Binary messages of WebSockets have checksums as bodies do",
    (*_ANSWERS, "vector.websocket.binary"),
)
def websocket(target: Target) -> None:
    """In both directions."""
    _needs_feature(target)
    with session(target, 2, seed=73, encoding=MSGPACK) as opened, open_socket(target, opened) as line:
        whole = _with_checksum(_step(opened))
        for content in _damaged(whole):
            line.send_raw(content)
            line.problem(400, "damaged")
        line.send_raw(whole)
        opened.take(read_step(line.receive(MSGPACK), opened.shape))
        _expect_checksum(line.last, "a message of a WebSocket")
