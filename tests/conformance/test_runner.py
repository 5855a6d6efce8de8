"""Choosing and running checks: what a check needs runs first, and what cannot be judged is skipped."""

from __future__ import annotations

import io
import socket
from base64 import b64encode
from collections.abc import Callable

import pytest
from rich.console import Console

from rattle.conformance.checks import Check, Result
from rattle.conformance.judging import expect, fail, skip
from rattle.conformance.raw import request_bytes, send_and_leave
from rattle.conformance.report import as_json, as_junit, print_result
from rattle.conformance.runner import choose, run
from rattle.conformance.table import CHECKS
from rattle.conformance.target import Target
from rattle.tokens import keep_token


@pytest.fixture
def target() -> Target:
    return Target("http://127.0.0.1:1")


def check(name: str, run: Callable[[Target], str | None], *needs: str) -> Check:
    return Check(name, f"title of {name}", run, needs)


def outcomes(target: Target, checks: list[Check], only: list[str], absent: dict[str, str]) -> list[Result]:
    return list(run(target, checks, choose(checks, only, []), absent))


def good(target: Target) -> None:
    return None


def bad(target: Target) -> None:
    target.note("GET /  ->  500")
    expect(False, "it is wrong", expected=1, got=2)


def test_a_failure_carries_expected_got_and_evidence(target: Target) -> None:
    (result,) = outcomes(target, [check("agent.a", bad)], [], {})
    assert (result.result, result.sentence) == ("fail", "it is wrong")
    assert (result.expected, result.got, result.evidence) == ("1", "2", ["GET /  ->  500"])


@pytest.mark.parametrize("credentials", ["", "me:it-is-secret@"])
@pytest.mark.parametrize("length", [None, 120, 90])
def test_no_report_of_a_failure_holds_the_credentials_that_were_sent(credentials: str, length: int | None) -> None:
    def raw(target: Target) -> None:
        data = request_bytes(target, "POST", "/v1/x", b"{}", "application/json")
        send_and_leave(target, data[:length])
        fail(f"it is wrong: {target.address.headers}", got=str(target.address.headers))

    token = "0123456789-a-token-of-these-tests-0123456789"  # noqa: S105
    keep_token(None if credentials else token)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            target = Target(f"http://{credentials}127.0.0.1:{listener.getsockname()[1]}")
            found = outcomes(target, [check("agent.a", raw)], [], {})
    finally:
        keep_token(None)
    shown = io.StringIO()
    print_result(Console(file=shown, width=80), found[0])
    reports = (shown.getvalue(), as_json("http://x", found, 1.0), as_junit("http://x", found, 1.0).decode())
    secret = token if target.address.token else b64encode(b"me:it-is-secret").decode()
    for report in reports:
        assert "POST /v1/x" in report
        assert [part for part in (secret[at : at + 6] for at in range(len(secret) - 5)) if part in report] == []


def test_what_needs_a_failed_check_is_skipped_and_says_so(target: Target) -> None:
    checks = [check("agent.a", bad), check("agent.b", good, "agent.a"), check("agent.c", good, "agent.b")]
    assert [(result.result, result.sentence) for result in outcomes(target, checks, [], {})] == [
        ("fail", "it is wrong"),
        ("skip", "cannot be judged, because agent.a failed"),
        ("skip", "cannot be judged, because agent.a failed"),
    ]


def test_a_chosen_check_has_its_needs_run_first_even_those_listed_later(target: Target) -> None:
    order: list[str] = []
    checks = [
        check("agent.b", lambda target: order.append("b"), "agent.a"),
        check("agent.a", lambda target: order.append("a")),
        check("agent.c", lambda target: order.append("c")),
    ]
    assert [result.id for result in outcomes(target, checks, ["agent.b"], {})] == ["agent.b"]
    assert order == ["a", "b"]


def test_a_check_that_stumbles_over_an_odd_answer_is_a_failure(target: Target) -> None:
    (result,) = outcomes(target, [check("agent.a", lambda target: {}["tick"])], [], {})
    assert result.result == "fail"
    assert "KeyError: 'tick'" in result.sentence


def test_a_connection_that_fails_is_a_failure_in_plain_words(target: Target) -> None:
    def refused(target: Target) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    (result,) = outcomes(target, [check("agent.a", refused)], [], {})
    assert "the connection to the server fails" in result.sentence


def test_a_face_that_is_absent_is_skipped_with_the_reason_and_not_run(target: Target) -> None:
    checks = [check("agent.a", bad), check("vector.a", good)]
    found = outcomes(target, checks, [], {"agent": "there is none"})
    assert [(result.result, result.sentence) for result in found] == [
        ("skip", "there is none"),
        ("pass", "title of vector.a"),
    ]


def test_a_skip_says_why(target: Target) -> None:
    (result,) = outcomes(target, [check("agent.a", lambda target: skip("no reason to try"))], [], {})
    assert (result.result, result.sentence) == ("skip", "no reason to try")


def test_evidence_of_one_check_is_not_shown_for_the_next(target: Target) -> None:
    checks = [check("agent.a", bad), check("agent.b", lambda target: fail("wrong too"))]
    assert outcomes(target, checks, [], {})[1].evidence == []


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("agent.stream.order", {"agent.stream.order"}),
        ("vector.spec", {check.id for check in CHECKS if check.id.startswith("vector.spec.")}),
        ("*.problem", {"agent.errors.problem", "vector.limits.problem", "vector.websocket.problem"}),
        ("agent.stream.or", set()),
    ],
)
def test_patterns_are_ids_beginnings_and_wildcards(pattern: str, wanted: set[str]) -> None:
    assert {check.id for check in choose(CHECKS, [pattern], [])} == wanted
    assert {check.id for check in choose(CHECKS, [], [pattern])} == {check.id for check in CHECKS} - wanted


def test_the_table_is_sound() -> None:
    ids = [check.id for check in CHECKS]
    assert len(set(ids)) == len(ids)
    for entry in CHECKS:
        assert set(entry.needs) <= set(ids)
        assert {need.partition(".")[0] for need in entry.needs} <= {entry.face}
        assert entry.face in ("agent", "vector")
        assert not entry.title.endswith(".")


def test_what_needs_a_check_that_was_skipped_for_its_own_reason_names_that_check(target: Target) -> None:
    checks = [check("agent.a", lambda target: skip("no ticks")), check("agent.b", good, "agent.a")]
    assert outcomes(target, checks, [], {})[1].sentence == "cannot be judged, because agent.a was skipped"
