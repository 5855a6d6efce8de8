"""The thread that stores batches, and tries again for as long as the store cannot take them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

import tenacity

from rattle.analytics.store import Store, StoreError, check_tables, open_store
from rattle.errors import RattleError
from rattle.services.ingest.clocks import Clocks
from rattle.services.ingest.inserting import Inserter
from rattle.services.ingest.messages import Job
from rattle.services.ingest.numbers import Numbers
from rattle.text import one_line

#: Takes the place of a trouble and what it is, None for no trouble.
Tell = Callable[[str, str | None], None]

_ASK_SECONDS: Final = 2.0  # between questions whether an idle store answers
_INSERT_SECONDS: Final = 120.0
#: The engine's code for a table that is not there: tables are looked for again.
_UNKNOWN_TABLE: Final = 60


class StoreThread(threading.Thread):
    """Stores batches until it gets None instead of one."""

    def __init__(
        self,
        url: str,
        jobs: SimpleQueue[Job | None],
        stopping: threading.Event,
        numbers: Numbers,
        tell: Tell,
        clocks: Clocks,
    ) -> None:
        super().__init__(name="ingest-store", daemon=True)
        self._url = url
        self._jobs = jobs
        self._stopping = stopping
        self._numbers = numbers
        self._tell = tell
        self._clocks = clocks
        self._store: Store | None = None
        self._failures: Counter[str] = Counter()

    def run(self) -> None:
        """Store one batch after the other."""
        while True:
            with suppress(tenacity.RetryError):
                self._until(self._stopping)(self._look)
            try:
                job = self._jobs.get(timeout=_ASK_SECONDS)
            except Empty:
                continue
            if job is None:
                break
            with suppress(tenacity.RetryError):
                self._until(job.abandoned)(self._insert, job)
        self._close()

    def _until(self, given_up: threading.Event) -> tenacity.Retrying:
        return tenacity.Retrying(
            wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=10.0, jitter=0.2),
            stop=tenacity.stop_when_event_set(given_up),
            sleep=tenacity.sleep_using_event(given_up),
            before_sleep=self._note,
        )

    def _look(self) -> None:
        """See whether the store answers, before there is a batch for it."""
        if self._jobs.empty():
            store, asked = self._opened(), time.time()
            said = store.read("SELECT toUnixTimestamp64Micro(now64(6))", "TSVRaw")
            self._clocks.compare_store(store.url, asked, int(said) / 1e6, time.time())
            self._tell("store", None)

    def _insert(self, job: Job) -> None:
        if job.abandoned.is_set():
            return
        began = time.monotonic()
        job.rejected = Inserter(self._opened(), self._failures).insert(job.deliveries)
        self._numbers.seconds.observe(time.monotonic() - began)
        self._tell("store", None)
        job.is_stored = True
        job.wake()

    def _opened(self) -> Store:
        if self._store is None:
            store = open_store(self._url, seconds=_INSERT_SECONDS)
            try:
                check_tables(store)
            except StoreError:
                store.close()
                raise
            self._store = store
        return self._store

    def _note(self, state: tenacity.RetryCallState) -> None:
        """Say what went wrong, and open the store again where that may help."""
        error = state.outcome.exception() if state.outcome is not None else None
        self._tell("store", str(error) if isinstance(error, RattleError) else one_line(f"the store fails: {error!r}"))
        if not isinstance(error, StoreError) or error.code in (None, _UNKNOWN_TABLE):
            self._close()

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with suppress(Exception):
                store.close()
