"""The list in the terminal, JSON and JUnit XML, and the page that lists the checks."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

from rattle.conformance.checks import Result
from rattle.conformance.report import as_json, as_junit, print_absent, print_result, print_summary
from rattle.conformance.table import CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "check-env.md"
RESULTS = [
    Result("agent.a.b", "A is b", "pass", "A is b"),
    Result("agent.a.c", "A is c", "fail", "A is [b] & <c>\x00", "1", "2" * 500, ["GET /  ->  200"], 0.5),
    Result("vector.a.d", "A is d", "skip", "there is no d"),
]


def shown(width: int = 80) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False, emoji=False, markup=False)
    for result in RESULTS:
        print_result(console, result)
    print_absent(console, "vector", "there is no d", RESULTS)
    print_summary(console, "http://x", RESULTS, 1.25)
    return stream.getvalue()


def test_the_list_is_plain_and_unbroken_when_piped() -> None:
    lines = shown().splitlines()
    assert lines[0] == "pass  agent.a.b  A is b"
    assert lines[1] == "FAIL  agent.a.c  A is c"
    assert lines[2].strip().startswith("A is [b] & <c>")
    assert lines[3].strip() == "expected: 1"
    assert lines[4].strip() == "got:      " + "2" * 500
    assert lines[5].strip() == "sent:     GET /  ->  200"
    assert lines[-2] == "skip  vector.*  1 checks: there is no d"
    assert lines[-1] == "http://x: 1 passed, 1 failed, 1 skipped of 3 checks in 1.2 s"


def test_what_a_server_sent_does_not_steer_the_terminal() -> None:
    stream = io.StringIO()
    sent = "\x1b]0;pwned\x07 \x9b31m"
    failed = Result("agent.a.c", "A is c", "fail", f"A is {sent}", "1", sent, [f"GET /  ->  {sent}"])
    print_result(Console(file=stream, width=80, highlight=False, emoji=False, markup=False), failed)
    assert not {"\x1b", "\x07", "\x9b"} & set(stream.getvalue())
    assert stream.getvalue().count("pwned") == 3


def test_json_has_every_field() -> None:
    report = json.loads(as_json("http://x", RESULTS, 1.25))
    assert report["summary"] == {"pass": 1, "fail": 1, "skip": 1}
    assert report["checks"][1]["evidence"] == ["GET /  ->  200"]
    assert [check["result"] for check in report["checks"]] == ["pass", "fail", "skip"]


def test_junit_can_be_read_whatever_a_server_sent() -> None:
    suite = ElementTree.fromstring(as_junit("http://x", RESULTS, 1.25))  # noqa: S314 - made here
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    cases = suite.findall("testcase")
    assert [(case.get("classname"), case.get("name")) for case in cases] == [
        ("agent.a", "b"),
        ("agent.a", "c"),
        ("vector.a", "d"),
    ]
    failure = cases[1].find("failure")
    assert failure is not None
    assert failure.get("message") == "A is [b] & <c>\N{REPLACEMENT CHARACTER}"


def test_the_page_lists_every_check_as_it_is() -> None:
    rows = [line for line in PAGE.read_text().partition("## The checks")[2].splitlines() if line.startswith("| `")]
    assert rows == [f"| `{check.id}` | {check.title.replace('|', chr(92) + '|')} |" for check in CHECKS], (
        "bring docs/check-env.md up to date with 'python docs/make_check_env.py'"
    )
