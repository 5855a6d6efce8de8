"""What ingest has done so far, for operators: as metrics of Prometheus, and in its status."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator
from math import isfinite

from prometheus_client import Metric

from rattle.analytics.store.tables import STORED
from rattle.services.ingest.messages import Job
from rattle.services.utils.measures import CounterMeasure, GaugeMeasure, HistogramMeasure

_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

ROWS = CounterMeasure("rattle_ingest_rows", "rows", "Rows stored.", ("table",))
MESSAGES = CounterMeasure("rattle_ingest_messages", "messages", "Messages stored.", ("table",))
REJECTED = CounterMeasure(
    "rattle_ingest_rejected_messages", "messages", "Messages put into the dead-letter queue.", ("table",)
)
KEPT = GaugeMeasure(
    "rattle_ingest_kept_messages",
    "messages",
    "Messages that cannot be stored and stay in the queue, since no dead-letter queue takes them.",
)
FAILURES = CounterMeasure(
    "rattle_ingest_failures", "attempts", "Failed attempts to use the broker or the store.", ("place",)
)
CLOCKS = CounterMeasure(
    "rattle_ingest_clock_differences",
    "findings",
    "How often a producer's message, or the store, showed that its clock is over 5 seconds off this service's.",
    ("place",),
)
WAITING = GaugeMeasure("rattle_ingest_queue_messages", "messages", "Messages that wait in the broker.")
LAG = GaugeMeasure(
    "rattle_ingest_lag_seconds", "seconds", "Age of the oldest rows that were taken and are not stored yet; 0: none."
)
DELIVERY = HistogramMeasure(
    "rattle_ingest_delivery_seconds",
    "seconds",
    "From publishing rows, by their producer's clock, to having them in the store; one a message.",
    (),
    (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0),
)
SECONDS = HistogramMeasure("rattle_ingest_batch_seconds", "seconds", "Time to store a batch.", (), _BOUNDS)


def age(made: float) -> float:
    """Return how many seconds ago something was made, 0 where that is in the future by another host's clock."""
    return max(0.0, time.time() - made)


class Numbers:
    """Counts what has been stored; methods may be called in any thread."""

    def __init__(self) -> None:
        self.rows, self.messages = ROWS.live(None), MESSAGES.live(None)
        self.rejected, self.failures = REJECTED.live(None), FAILURES.live(None)
        self.clocks, self.kept = CLOCKS.live(None), KEPT.live(None)
        self.waiting, self.lag, self.seconds = WAITING.live(None), LAG.live(None), SECONDS.live(None)
        self.delivery = DELIVERY.live(None)
        self.totals = {"rows": 0, "messages": 0, "rejected": 0, "batches": 0}

    def count(self, job: Job, kept: Container[int]) -> None:
        """Take note of a batch that was stored, but for the messages that were rejected, or are `kept` in the queue."""
        rejected = {one.delivery.tag for one in job.rejected}
        self.totals["batches"] += 1
        for delivery in job.deliveries:
            if delivery.tag in rejected:
                continue
            self.rows.labels(delivery.table).inc(delivery.rows)
            self.messages.labels(delivery.table).inc()
            if isfinite(delivery.made):
                self.delivery.observe(age(delivery.made))
            self.totals["rows"] += delivery.rows
            self.totals["messages"] += 1
        for one in job.rejected:
            if one.delivery.tag in kept:
                continue
            self.rejected.labels(one.delivery.table if one.delivery.table in STORED else "unknown").inc()
            self.totals["rejected"] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield all for Prometheus."""
        counters = (self.rows, self.messages, self.rejected, self.failures, self.clocks)
        for metric in (*counters, self.kept, self.waiting, self.lag, self.seconds, self.delivery):
            yield from metric.collect()
