"""A whole run of the checker: from a URL to a list, files and an exit code."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.writer import write_atomically
from rattle.conformance.checks import Check
from rattle.conformance.errors import ConformanceError
from rattle.conformance.probe import absent_faces
from rattle.conformance.report import as_json as in_json
from rattle.conformance.report import as_junit, print_absent, print_result, print_summary, summary
from rattle.conformance.runner import run
from rattle.conformance.table import CHECKS
from rattle.conformance.target import Target

PASSED, FAILED, COULD_NOT_RUN = 0, 1, 2


def check(url: str, timeout: float, chosen: Sequence[Check], *, as_json: bool, junit: Path | None) -> int:
    """Run the checks against the server at `url`, print the result and return the exit code."""
    console = Console(highlight=False, emoji=False, markup=False, quiet=as_json)
    start = time.monotonic()
    results = []
    try:
        target = Target(url, timeout)
        absent = absent_faces(target)
    except ConformanceError as error:
        sys.stderr.write(f"Error: {error}\n")
        return COULD_NOT_RUN
    try:
        for result in run(target, CHECKS, chosen, absent):
            results.append(result)
            if result.sentence not in absent.values():
                print_result(console, result)
    finally:
        target.close()
    seconds = time.monotonic() - start
    for face, reason in absent.items():
        print_absent(console, face, reason, results)
    print_summary(console, target.url, results, seconds)
    if as_json:
        sys.stdout.write(in_json(target.url, results, seconds) + "\n")
    if junit is not None:
        try:
            write_atomically(junit, as_junit(target.url, results, seconds))
        except AnalyticsError as error:
            sys.stderr.write(f"Error: {error}\n")
            return COULD_NOT_RUN
    return FAILED if summary(results)["fail"] else PASSED
