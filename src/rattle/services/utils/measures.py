"""What services show Prometheus, each number described once: `/metrics` and docs/metrics.md take it from here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pkgutil import walk_packages
from typing import ClassVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


@dataclass(frozen=True)
class Measure:
    """A number of a service, or one for each value of its labels."""

    name: str
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()

    kind: ClassVar[str]

    @property
    def shown_as(self) -> str:
        """Return the name in `/metrics`."""
        return self.name


class CounterMeasure(Measure):
    """A number that only rises while the service lives."""

    kind = "counter"

    @property
    def shown_as(self) -> str:
        """Return the name in `/metrics`, where counters end in `_total`."""
        return f"{self.name}_total"

    def live(self, registry: CollectorRegistry | None) -> Counter:
        """Return one that counts itself."""
        return Counter(self.name, self.meaning, self.labels, registry=registry)

    def family(self, value: float | None = None) -> CounterMetricFamily:
        """Return what was counted elsewhere; with labels, without a value."""
        return CounterMetricFamily(self.name, self.meaning, value, labels=self.labels or None)


class GaugeMeasure(Measure):
    """A number that rises and falls."""

    kind = "gauge"

    def live(self, registry: CollectorRegistry | None) -> Gauge:
        """Return one that is set."""
        return Gauge(self.name, self.meaning, self.labels, registry=registry)

    def family(self, value: float | None = None) -> GaugeMetricFamily:
        """Return what is known elsewhere; with labels, without a value."""
        return GaugeMetricFamily(self.name, self.meaning, value, labels=self.labels or None)


@dataclass(frozen=True)
class HistogramMeasure(Measure):
    """How often a number was how large."""

    buckets: tuple[float, ...] = ()

    kind = "histogram"

    def live(self, registry: CollectorRegistry | None) -> Histogram:
        """Return one that observes."""
        return Histogram(self.name, self.meaning, self.labels, registry=registry, buckets=self.buckets)

    def family(self, within: list[int], count: int, total: float) -> HistogramMetricFamily:
        """Return what was observed elsewhere: how many were `within` each bucket, how many in all, and their sum."""
        counted = [(str(bound), number) for bound, number in zip(self.buckets, within, strict=True)]
        return HistogramMetricFamily(self.name, self.meaning, [*counted, ("+Inf", count)], total)


#: Bounds of times to answer, in seconds.
ANSWER_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)

REQUESTS = CounterMeasure("rattle_requests", "requests", "Answered requests.", ("api", "status"))
REQUEST_SECONDS = HistogramMeasure(
    "rattle_request_seconds",
    "seconds",
    "Time from a request, or a message on a WebSocket, to the first bytes of its answer.",
    ("api",),
    ANSWER_SECONDS,
)
REFUSED_REQUESTS = CounterMeasure(
    "rattle_refused_requests",
    "requests",
    "Requests without the right token (401 or UNAUTHENTICATED), or of pages elsewhere (403).",
    ("status",),
)
DAMAGED_MESSAGES = CounterMeasure(
    "rattle_damaged_messages",
    "messages",
    "Messages of other services that arrived damaged, as their checksums say; they are sent again.",
)
_SHARED = (REQUESTS, REQUEST_SECONDS, REFUSED_REQUESTS, DAMAGED_MESSAGES)


def measures() -> dict[str, list[Measure]]:
    """Return the numbers of all services, by the name of their package; those that several share come first."""
    found: dict[str, list[Measure]] = {}
    for measure, package in _defined():
        if measure not in found.setdefault(package, []):
            found[package].append(measure)
    return dict(sorted(found.items(), key=lambda item: (item[0] != "utils", item[0])))


def _defined() -> Iterator[tuple[Measure, str]]:
    services = import_module("rattle.services")
    for module in walk_packages(services.__path__, "rattle.services."):
        package = module.name.split(".")[2]
        for value in vars(import_module(module.name)).values():
            if isinstance(value, Measure) and value not in _SHARED:
                yield value, package
            elif isinstance(value, Measure):
                yield value, "utils"
