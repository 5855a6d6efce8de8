"""`rattle`, but the tables of runs are closed and packed at 4 kB instead of 32 MiB."""

from __future__ import annotations

from rattle.analytics import table_writer
from rattle.cli import main as rattle


def main() -> None:
    table_writer.PART_BYTES = 4000
    rattle()
