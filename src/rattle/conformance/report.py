"""Results as a list in the terminal, as JSON and as JUnit XML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import msgspec
from rich.console import Console
from rich.text import Text

from rattle.conformance.checks import Check, Result

_STYLES = {"pass": "green", "fail": "bold red", "skip": "yellow"}
#: What XML 1.0 cannot hold, even escaped.
_NOT_XML = {code: "\N{REPLACEMENT CHARACTER}" for code in range(32) if chr(code) not in "\t\n\r"}


def print_result(console: Console, result: Result) -> None:
    """Print a result as a line, and under a failure what was expected, what came, and the last requests."""
    word = "FAIL" if result.result == "fail" else result.result
    said = result.sentence if result.result == "skip" else result.title
    console.print(Text.assemble((word, _STYLES[result.result]), f"  {result.id}  ", (said, "dim")), soft_wrap=True)
    if said == result.sentence:
        return
    console.print(Text(f"      {_printable(result.sentence)}"), soft_wrap=True)
    shown = (("expected: ", result.expected), ("got:      ", result.got))
    lines = [name + text for name, text in shown if text is not None]
    lines += [f"sent:     {exchange}" for exchange in result.evidence]
    for extra in lines:
        console.print(Text(f"      {_printable(extra)}", style="dim"), soft_wrap=True)


def print_absent(console: Console, face: str, reason: str, results: Sequence[Result]) -> None:
    """Print one line for all checks of a face that the server lacks."""
    count = sum(result.sentence == reason for result in results)
    if count:
        line = Text.assemble(("skip", _STYLES["skip"]), f"  {face}.*  ", (f"{count} checks: {reason}", "dim"))
        console.print(line, soft_wrap=True)


def print_summary(console: Console, url: str, results: Sequence[Result], seconds: float) -> None:
    """Print how many checks passed, failed and were skipped."""
    counts = summary(results)
    text = (
        f"{url}: {counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped "
        f"of {len(results)} checks in {seconds:.1f} s"
    )
    console.print(Text(text, style=_STYLES["fail" if counts["fail"] else "pass"]), soft_wrap=True)


def summary(results: Sequence[Result]) -> dict[str, int]:
    """Return how many checks passed, failed and were skipped."""
    counts = Counter(result.result for result in results)
    return {"pass": counts["pass"], "fail": counts["fail"], "skip": counts["skip"]}


def as_json(url: str, results: Sequence[Result], seconds: float) -> str:
    """Return all results as one JSON object."""
    value: dict[str, Any] = {"url": url, "summary": summary(results), "seconds": round(seconds, 3), "checks": results}
    return msgspec.json.encode(value).decode()


def as_junit(url: str, results: Sequence[Result], seconds: float) -> bytes:
    """Return all results as JUnit XML, which continuous integration shows test by test."""
    counts = summary(results)
    suite = ElementTree.Element(
        "testsuite",
        name=f"rattle check-env {url}",
        tests=str(len(results)),
        failures=str(counts["fail"]),
        skipped=str(counts["skip"]),
        errors="0",
        time=f"{seconds:.3f}",
    )
    for result in results:
        group, _, name = result.id.rpartition(".")
        case = ElementTree.SubElement(suite, "testcase", classname=group, name=name, time=f"{result.seconds:.3f}")
        if result.result == "skip":
            ElementTree.SubElement(case, "skipped", message=_clean(result.sentence))
        elif result.result == "fail":
            failure = ElementTree.SubElement(case, "failure", message=_clean(result.sentence))
            lines = [f"expected: {result.expected}", f"got: {result.got}", *result.evidence]
            failure.text = _clean("\n".join(lines))
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


def listing(checks: Sequence[Check]) -> str:
    """Return the checks as lines of id and title."""
    width = max(len(check.id) for check in checks)
    return "\n".join(f"{check.id:{width}}  {check.title}" for check in checks)


def _clean(text: str) -> str:
    return text.translate(_NOT_XML)


def _printable(text: str) -> str:
    """Return what a server sent as a terminal may get it."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
