"""Run checks in order: those that a chosen one needs run too, and what cannot be judged is skipped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from rattle.conformance.checks import Check, Outcome, Result
from rattle.conformance.judging import Failed, Skipped
from rattle.conformance.target import Target
from rattle.redaction import redact


def choose(checks: Sequence[Check], only: Sequence[str], without: Sequence[str]) -> list[Check]:
    """Return the checks whose id fits a pattern of `only` (all without one) and none of `without`.

    A pattern is an id, the beginning of one up to a dot (`vector.steps`), or has `*` and `?`.
    """
    return [
        check
        for check in checks
        if (not only or any(_fits(check.id, pattern) for pattern in only))
        and not any(_fits(check.id, pattern) for pattern in without)
    ]


def run(target: Target, checks: Sequence[Check], chosen: Sequence[Check], absent: dict[str, str]) -> Iterator[Result]:
    """Run the chosen ones of `checks`, and first what they need, and yield the results of the chosen.

    `absent` maps a face that the server lacks to the reason.
    """
    wanted = {check.id for check in chosen}
    blocked: dict[str, str] = {}
    for check in _with_needs(checks, chosen):
        reason = absent.get(check.face) or next((blocked[need] for need in check.needs if need in blocked), None)
        result = Result(check.id, check.title, "skip", reason) if reason else _judge(target, check)
        if result.result != "pass":
            # The reason is handed on: the first check that did not pass is the one to look at.
            how = "failed" if result.result == "fail" else "was skipped"
            blocked[check.id] = reason or f"cannot be judged, because {check.id} {how}"
        if check.id in wanted:
            yield result


def _judge(target: Target, check: Check) -> Result:
    """Return the result of a check that can be judged."""
    target.evidence = []
    start = time.monotonic()
    expected = got = None
    result: Outcome = "fail"
    try:
        sentence = check.run(target) or check.title
        result = "pass"
    except Failed as failed:
        sentence, expected, got = str(failed), failed.expected, failed.got
    except Skipped as skipped:
        result, sentence = "skip", str(skipped)
    except OSError as error:
        sentence = f"the connection to the server fails: {error}"
    except Exception as error:  # an answer so odd that the check stumbles over it is the server's failure
        sentence = f"the answer is not of the shape that docs/env-api.md describes ({type(error).__name__}: {error})"
    evidence = [redact(line) for line in target.evidence] if result == "fail" else []
    expected, got = (text and redact(text) for text in (expected, got))  # what a server sends back of a request, too
    return Result(check.id, check.title, result, redact(sentence), expected, got, evidence, time.monotonic() - start)


def _with_needs(checks: Sequence[Check], chosen: Sequence[Check]) -> list[Check]:
    """Return the chosen checks, each after all that it needs, directly or not."""
    by_id = {check.id: check for check in checks}
    found: dict[str, Check] = {}

    def add(check: Check) -> None:
        if check.id not in found:
            for need in check.needs:
                add(by_id[need])
            found[check.id] = check

    for check in chosen:
        add(check)
    return list(found.values())


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
