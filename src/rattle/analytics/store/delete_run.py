"""Deleting a run from a store: its rows in all tables."""

from __future__ import annotations

from rattle.analytics.errors import AnalyticsError
from rattle.analytics.schema import RUNNING, quoted
from rattle.analytics.store.connection import Store
from rattle.analytics.store.tables import PREFIX, STORED
from rattle.text import one_line


def check_deletable(store: Store, run_id: str) -> None:
    """Raise AnalyticsError for a run that is in progress, as far as a store can know that."""
    mine = f"run_id = {quoted(run_id)}"
    found = store.read(f"SELECT count() FROM runs WHERE {mine} AND status = '{RUNNING}'", "TSVRaw")
    if int(found):
        raise AnalyticsError(one_line(f"{run_id} in {store.url} is in progress: stop it first, then delete it"))


def delete_stored(store: Store, run_id: str) -> None:
    """Delete the rows of a run; those that still wait in the broker bring it back. Raises AnalyticsError.

    Its row of `runs` goes last, so that a deletion that was broken off can be asked for again.
    """
    check_deletable(store, run_id)
    for table in sorted(STORED, key=lambda name: name == "runs"):
        store.command(f"DELETE FROM {PREFIX}{table} WHERE run_id = {quoted(run_id)}")
