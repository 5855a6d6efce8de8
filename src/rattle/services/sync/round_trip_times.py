"""How long round trips take, as a histogram for Prometheus that costs a busy coordinator next to nothing."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from prometheus_client.core import HistogramMetricFamily

from rattle.services.utils.measures import HistogramMeasure

ROUND_TRIPS = HistogramMeasure(
    "rattle_sync_round_trip_seconds",
    "seconds",
    "From a tick to its answer, the member's work included.",
    buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0),
)


class RoundTripTimes:
    """Counts samples, many at a time: the library's own histogram takes locks for each."""

    def __init__(self) -> None:
        self._within = [0] * len(ROUND_TRIPS.buckets)
        self._count = 0
        self._seconds = 0.0

    def add(self, samples: Sequence[float]) -> None:
        """Count samples, in seconds."""
        ordered = sorted(samples)
        for number, bound in enumerate(ROUND_TRIPS.buckets):
            self._within[number] += bisect_right(ordered, bound)
        self._count += len(ordered)
        self._seconds += sum(ordered)

    def family(self) -> HistogramMetricFamily:
        """Return them for Prometheus."""
        return ROUND_TRIPS.family(self._within, self._count, self._seconds)
