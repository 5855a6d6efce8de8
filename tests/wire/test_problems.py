"""A problem tells what is wrong in one printable line, whatever a stranger sent."""

from __future__ import annotations

import msgspec

from rattle.wire.problems import LONGEST_TEXT, RequestError, problem_body


def test_text_of_strangers_is_one_printable_line() -> None:
    body = msgspec.json.decode(problem_body(RequestError("bad_value", "no \x1b[31mname\r\nhere: \udc80", "a\x07\nb")))
    assert (body["detail"], body["error"], body["field"]) == ("no [31mname here:", "no [31mname here:", "a b")


def test_long_text_is_cut() -> None:
    body = msgspec.json.decode(problem_body(RequestError("unknown_path", "x" * 60_000)))
    assert len(body["detail"]) == LONGEST_TEXT
