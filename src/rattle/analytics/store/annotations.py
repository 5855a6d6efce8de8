"""What people say of runs in a store: a table of its own, because the rows of `runs` belong to those that train."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from rattle.analytics.annotations import Annotations
from rattle.analytics.schema import quoted
from rattle.analytics.store.connection import Store
from rattle.analytics.store.tables import PREFIX


def read_stored(store: Store, run_id: str) -> Annotations:
    """Return what people say of a run; raises StoreError."""
    answer = store.read(f"SELECT tags, note, archived FROM annotations WHERE run_id = {quoted(run_id)}")
    found = msgspec.json.Decoder(Annotations).decode_lines(answer)
    return found[0] if found else Annotations()


def annotate_stored(store: Store, run_id: str, change: Callable[[Annotations], Annotations]) -> Annotations:
    """Change what people say of a run, and return it; what is said last counts. Raises AnalyticsError."""
    changed = change(read_stored(store, run_id))
    row = {"run_id": run_id, **msgspec.structs.asdict(changed)}
    store.insert(f"{PREFIX}annotations", msgspec.json.encode(row), "JSONEachRow", {"async_insert": 0})
    return changed
