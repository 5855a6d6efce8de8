"""Bring the tables of docs/check-env.md up to date with the checks."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from rattle.conformance.table import CHECKS

PAGE = Path(__file__).with_name("check-env.md")
START = "## The checks"


def tables() -> str:
    """Return a table for each face."""
    parts = [START]
    for face, checks in groupby(CHECKS, key=lambda check: check.face):
        rows = [f"| `{check.id}` | {check.title.replace('|', chr(92) + '|')} |" for check in checks]
        parts.append("\n".join([f"### The {face} API", "", "| check | what a server must do |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().partition(START)[0] + tables())
