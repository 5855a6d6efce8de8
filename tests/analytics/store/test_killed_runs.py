"""A run that was killed, and that only the store knows, says `running` for ever: readers say what became of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.runs import stored_row
from rattle.analytics.store import Store
from rattle.analytics.store.delete_run import check_deletable
from rattle.analytics.store.load import SETTINGS
from rattle.analytics.store.tables import SILENT_MINUTES
from rattle.analytics.stored_runs import StoredRuns
from rattle.cli import main

#: Times as they lie from the moment at which rows are stored.
NOW = timedelta()
SILENT = timedelta(minutes=SILENT_MINUTES)
LONG_AGO = -2 * SILENT
#: What has come of each run, and what readers say of it.
RUNS: dict[str, tuple[str, str, list[tuple[str, dict[str, Any]]]]] = {
    "killed": ("running", "interrupted", []),
    "heard": ("running", "running", [("logs", {"time": NOW, "event": "system_metrics"})]),
    "learning": ("running", "running", [("updates", {"time": LONG_AGO})]),  # by a clock that is behind
    "begun": ("running", "running", [("runs", {"status": "running", "written": NOW})]),
    "ahead": ("running", "interrupted", [("logs", {"time": 2 * SILENT})]),  # killed, with a clock that was ahead
    "resumed": ("interrupted", "running", [("runs", {"status": "running", "written": NOW})]),
    "finished": ("finished", "finished", []),
}


def insert(store: Store, table: str, **row: Any) -> None:
    now = datetime.now(UTC)
    row = {name: now + value if isinstance(value, timedelta) else value for name, value in row.items()}
    store.insert(f"stored_{table}", msgspec.json.encode(row), "JSONEachRow", SETTINGS)


@pytest.fixture
def filled(store: Store) -> Store:
    """Return a store to which the broker has brought rows of runs."""
    for run_id, (status, _said, rows) in RUNS.items():
        insert(store, "runs", run_id=run_id, status=status, written=LONG_AGO)
        insert(store, "lives", run_id=run_id, life=0, after_update=0, time=LONG_AGO)
        insert(store, "updates", run_id=run_id, policy_version=1, made_by=1, time=LONG_AGO, stored=LONG_AGO)
        insert(store, "logs", run_id=run_id, time=LONG_AGO, writer="w", number=1, event="system_metrics")
        for table, row in rows:
            own = {"policy_version": 2, "made_by": 2} if table == "updates" else {}
            insert(store, table, run_id=run_id, **own, **row)
    return store


def test_readers_say_what_run_directories_say(filled: Store, database: str) -> None:
    expected = {run_id: said for run_id, (_status, said, _rows) in RUNS.items()}
    done = CliRunner().invoke(main, ["runs", "--store", database, "--json"], catch_exceptions=False)
    assert {row["run_id"]: row["status"] for row in map(json.loads, done.stdout.splitlines())} == expected
    found = StoredRuns(filled)
    assert (stored_row(found.find("killed")) or {})["status"] == "interrupted"
    chosen = found.chosen(["killed", "heard"])
    chosen.prepare({})
    answer = chosen.ask("SELECT run_id, status FROM runs WHERE status = 'running'", "TSVRaw")
    assert answer == b"heard\trunning\n"


def test_a_killed_run_can_be_deleted(filled: Store) -> None:
    check_deletable(filled, "killed")
    for run_id in ("heard", "learning", "begun", "resumed"):
        with pytest.raises(AnalyticsError, match=f"{run_id} in .* is in progress"):
            check_deletable(filled, run_id)
